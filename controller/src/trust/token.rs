//! Tokens of service accounts, reviewed by the API server.

use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::identity::Refusal;
use crate::watch::Failure;

/// Reviews at a time: strangers must not keep the API server busy.
const AT_A_TIME: usize = 8;

/// How long a review may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Longest token that is looked at.
const MAX_LENGTH: usize = 16 * 1024;

/// Before the account in the name of a user.
const ACCOUNT: &str = "system:serviceaccount:";

/// Key of the user's extra fields with the name of the pod that the token is bound to.
const POD: &str = "authentication.kubernetes.io/pod-name";

/// Whose token it is.
#[derive(Debug)]
pub(super) struct Reviewed {
    /// `namespace:name`.
    pub(super) account: String,
    /// The pod that it is bound to.
    pub(super) pod: Option<String>,
}

/// Has tokens reviewed.
pub(super) struct Reviewer {
    api: Api<TokenReview>,
    audience: String,
    free: Semaphore,
}

impl Reviewer {
    pub(super) fn new(client: Client, audience: String) -> Self {
        Reviewer { api: Api::all(client), audience, free: Semaphore::new(AT_A_TIME) }
    }

    /// Asks the API server whose token this is. Only one for our audience is taken: a gateway must hold none that the API
    /// server itself would take, and one that another service got must not open this door.
    pub(super) async fn review(&self, token: &str) -> Result<Reviewed, Refusal> {
        if token.len() > MAX_LENGTH {
            return Err(Refusal::Token("its token is too long".to_owned()));
        }
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![self.audience.clone()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let params = PostParams::default();
        let asked = timeout(LIMIT, async {
            let _permit = self.free.acquire().await.ok()?;
            Some(self.api.create(&params, &review).await)
        });
        let unknown = |why: String| Refusal::Unknown(format!("its token cannot be reviewed: {why}"));
        let answer = match asked.await {
            Ok(Some(answer)) => answer.map_err(|error| unknown(Failure::of(&error).sentence()))?,
            Ok(None) | Err(_) => return Err(unknown("the API server does not answer".to_owned())),
        };
        let status = answer.status.unwrap_or_default();
        let is_ours = status.audiences.iter().flatten().any(|audience| *audience == self.audience);
        if status.authenticated != Some(true) || !is_ours {
            return Err(Refusal::Token(format!("its token is not accepted for the audience {}", self.audience)));
        }
        let user = status.user.unwrap_or_default();
        let name = user.username.unwrap_or_default();
        let account =
            name.strip_prefix(ACCOUNT).ok_or_else(|| Refusal::Token(format!("{name} is no service account")))?;
        let pod = user.extra.and_then(|mut extra| extra.remove(POD)?.into_iter().next());
        Ok(Reviewed { account: account.to_owned(), pod })
    }
}
