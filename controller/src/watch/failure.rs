//! What goes wrong with the API server, in words that say what to do; and how often that is said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Feed;

/// How long a failure that stays the same is not logged again.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Why a list or watch failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// 403: the rights are missing, or the API server has not loaded its rules yet.
    Denied {
        /// As whom the API server knows us.
        user: Option<Arc<str>>,
        /// What it says.
        message: String,
    },
    /// 401: the credentials are not accepted.
    Unauthorized(String),
    /// 410, or `Expired`: a list is needed.
    Gone,
    /// The server does not do what was asked for (streaming lists).
    Unsupported(String),
    /// Everything else: it cannot be reached, is overloaded, or says what cannot be understood.
    Unavailable(String),
}

impl Failure {
    /// What an error of the client means.
    pub fn of(error: &kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Failure::of_status(status),
            other => Failure::Unavailable(chain(other)),
        }
    }

    /// What a status of the API server means.
    pub fn of_status(status: &kube::core::Status) -> Self {
        let message = status.message.clone();
        match status.code {
            401 => Failure::Unauthorized(message),
            403 => Failure::Denied { user: user_of(&message), message },
            410 => Failure::Gone,
            400 | 422 => Failure::Unsupported(message),
            _ if status.reason == "Expired" => Failure::Gone,
            code => Failure::Unavailable(format!("{code} {}: {message}", status.reason)),
        }
    }

    /// What to tell an operator about it.
    pub fn sentence(&self) -> String {
        match self {
            Failure::Denied { message, .. } => {
                format!("403: {message}. deploy/manifests/20-rbac.yaml grants what the controller needs")
            }
            Failure::Unauthorized(message) => {
                let message = if message.is_empty() { "Unauthorized" } else { message };
                format!("401: {message}. The credentials are wrong or have expired: look at the kubeconfig or token")
            }
            Failure::Gone => "410: the resourceVersion is too old; everything is listed again".to_owned(),
            Failure::Unsupported(message) | Failure::Unavailable(message) => message.clone(),
        }
    }
}

/// The user in a message of the RBAC authorizer: `secrets is forbidden: User "NAME" cannot list resource …`.
fn user_of(message: &str) -> Option<Arc<str>> {
    let (_, rest) = message.split_once("User \"")?;
    let (user, _) = rest.split_once('"')?;
    (!user.is_empty()).then(|| user.into())
}

/// An error with what caused it: the client's own texts stop at "service error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// What does not work now, by feed; for readiness, and so that each is said once and not at every try.
#[derive(Debug, Default)]
pub struct Trouble(Mutex<BTreeMap<Feed, (String, Instant)>>);

impl Trouble {
    /// A feed failed. Logs it where it is news.
    pub fn failed(&self, feed: &Feed, failure: &Failure) {
        let sentence = failure.sentence();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(feed).is_some_and(|(said, when)| *said == sentence && when.elapsed() < SAY_AGAIN);
        if !known {
            tracing::warn!("{feed}: {sentence}; what was known stays, it is tried again");
            all.insert(feed.clone(), (sentence, Instant::now()));
        }
    }

    /// A feed works, or is no longer followed.
    pub fn ended(&self, feed: &Feed) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(feed).is_some() {
            tracing::info!("{feed}: works again");
        }
    }

    /// Everything that does not work, in sentences.
    pub fn sentences(&self) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|(feed, (sentence, _))| format!("{feed}: {sentence}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_taken_from_the_message() {
        let message = "secrets is forbidden: User \"system:serviceaccount:a:b\" cannot list resource \"secrets\"";
        assert_eq!(user_of(message).as_deref(), Some("system:serviceaccount:a:b"));
        for message in ["", "forbidden", "User \"", "User \"\" cannot"] {
            assert_eq!(user_of(message), None, "{message}");
        }
    }
}
