//! Where a controller is: `--controller https://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// Host and port of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerUrl {
    /// DNS name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// `https`: encrypted, and both sides know each other.
    pub secure: bool,
}

impl fmt::Display for ControllerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

impl ControllerUrl {
    /// Host and port as a URL has them.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for ControllerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("controller `{text}`: {why}; expected https://HOST:PORT"));
        let Ok(uri) = text.parse::<Uri>() else { return wrong("no URL") };
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return wrong("the scheme is missing"),
        };
        if !matches!(uri.path_and_query().map(|path| path.as_str()), None | Some("/")) {
            return wrong("a path has no meaning here");
        }
        match (uri.host().map(|host| host.trim_matches(['[', ']'])), uri.port_u16()) {
            (Some(host), Some(port)) if !host.is_empty() => Ok(ControllerUrl { host: host.to_owned(), port, secure }),
            _ => wrong("host or port is missing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_and_a_port() {
        for (text, host) in
            [("http://a.test:1", "a.test"), ("https://10.0.0.1:1/", "10.0.0.1"), ("https://[::1]:1", "::1")]
        {
            let url: ControllerUrl = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.port), (host, 1), "{text}");
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for (text, why) in [
            ("a.test:1", "scheme"),
            ("http://a.test", "port is missing"),
            ("http://a.test:1/x", "path"),
            ("", "no URL"),
        ] {
            let message = text.parse::<ControllerUrl>().unwrap_err();
            assert!(message.contains(why), "{text}: {message}");
        }
    }
}
