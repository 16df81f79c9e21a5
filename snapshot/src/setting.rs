//! The settings of routes: how each is called in the configuration file, in ConfigMaps and in annotations, and how its value is read. A new
//! one is a row of [`ALL`], and a field of [`Policy`].

use std::sync::Arc;

use serde_json::{Value, json};

use crate::facts::NGINX_PREFIX;
use crate::model::{Policy, SetBy};

/// One setting.
pub struct Setting {
    /// Its name in the configuration file and in ConfigMaps.
    pub name: &'static str,
    /// Its name in ingress-nginx's ConfigMap, which ours may use as well.
    pub nginx: Option<&'static str>,
    /// The annotation of an Ingress that sets it.
    pub annotation: Option<&'static str>,
    /// What its values look like, in words.
    pub expected: &'static str,
    read: fn(&mut Policy, &str) -> Option<()>,
    show: fn(&Policy) -> Value,
}

/// Every setting.
pub static ALL: [Setting; 6] = [
    Setting {
        name: "sslRedirect",
        nginx: Some("ssl-redirect"),
        annotation: Some("nginx.ingress.kubernetes.io/ssl-redirect"),
        expected: "\"true\" or \"false\"",
        read: |policy, text| parse_bool(text).map(|value| policy.ssl_redirect = value),
        show: |policy| json!(policy.ssl_redirect),
    },
    Setting {
        name: "rejectEncodedSlashes",
        nginx: None,
        annotation: None,
        expected: "\"true\" or \"false\"",
        read: |policy, text| parse_bool(text).map(|value| policy.reject_encoded_slashes = value),
        show: |policy| json!(policy.reject_encoded_slashes),
    },
    Setting {
        name: "bodyLimit",
        nginx: Some("proxy-body-size"),
        annotation: Some("nginx.ingress.kubernetes.io/proxy-body-size"),
        expected: "a size like 100, 8k, 10m or 1g, or 0 for none",
        read: |policy, text| parse_size(text).map(|value| policy.body_limit = value),
        show: |policy| json!(policy.body_limit),
    },
    Setting {
        name: "streamTimeout",
        nginx: None,
        annotation: Some("sluicegate.dev/stream-timeout"),
        expected: DURATION,
        read: |policy, text| parse_seconds(text).map(|value| policy.stream_timeout = Some(value)),
        show: |policy| json!(policy.stream_timeout),
    },
    Setting {
        name: "clientWriteTimeout",
        nginx: None,
        annotation: Some("sluicegate.dev/client-write-timeout"),
        expected: DURATION,
        read: |policy, text| parse_seconds(text).map(|value| policy.client_write_timeout = Some(value)),
        show: |policy| json!(policy.client_write_timeout),
    },
    Setting {
        name: "upgradedIdleTimeout",
        nginx: None,
        annotation: Some("sluicegate.dev/upgraded-idle-timeout"),
        expected: DURATION,
        read: |policy, text| parse_seconds(text).map(|value| policy.upgraded_idle_timeout = Some(value)),
        show: |policy| json!(policy.upgraded_idle_timeout),
    },
];

const DURATION: &str = "a duration like 30s, 10m or 2h, from 1s to 24h";

impl Setting {
    /// The setting of this name in a ConfigMap.
    pub fn of_key(key: &str) -> Option<&'static Setting> {
        ALL.iter().find(|setting| setting.name == key || setting.nginx == Some(key))
    }

    /// Sets it; `None`: the value is none, and nothing changes.
    pub fn set(&self, policy: &mut Policy, text: &str, by: SetBy) -> Option<()> {
        (self.read)(policy, text)?;
        policy.set_by.insert(Arc::from(self.name), by);
        Some(())
    }

    /// Its value.
    pub fn show(&self, policy: &Policy) -> Value {
        (self.show)(policy)
    }

    /// Whether an annotation of ingress-nginx (without its prefix) sets one.
    pub fn is_nginx_annotation(name: &str) -> bool {
        ALL.iter().filter_map(|setting| setting.annotation?.strip_prefix(NGINX_PREFIX)).any(|known| known == name)
    }
}

/// Go's `strconv.ParseBool`, which ingress-nginx reads its booleans with.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A size as ingress-nginx reads it: digits, and one of `b`, `k`, `m`, `g`.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let factor: u64 = match &text[digits.len()..] {
        "" | "b" | "B" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(factor)
}

/// Whole seconds, minutes or hours, up to a day.
fn parse_seconds(text: &str) -> Option<u32> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 3600),
        _ => return None,
    };
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = digits.parse::<u32>().ok().filter(|_| is_number)?.checked_mul(factor)?;
    (1..=86_400).contains(&seconds).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_ingress_nginx_reads_them() {
        for (text, bytes) in [("0", 0), ("20", 20), ("8k", 8 << 10), ("10M", 10 << 20), ("1g", 1 << 30), ("7b", 7)] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            "m",
            "10 MB",
            "10mb",
            "-1",
            "+1",
            "1.5m",
            "1t",
            " 1",
            "99999999999999999999",
            "18446744073709551615k",
            "1é",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_whole_and_at_most_a_day() {
        for (text, seconds) in [("1s", 1), ("10m", 600), ("24h", 86_400)] {
            assert_eq!(parse_seconds(text), Some(seconds), "{text}");
        }
        for text in ["", "s", "0s", "30", "25h", "1.5h", "1d", "-1s", "+1s", "99999999999h", "1\u{20ac}"] {
            assert_eq!(parse_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn each_setting_shows_what_was_set_and_by_whom() {
        let values = ["false", "true", "10m", "1h", "2m", "3s"];
        let shown = [json!(false), json!(true), json!(10 << 20), json!(3600), json!(120), json!(3)];
        for ((setting, value), shown) in ALL.iter().zip(values).zip(shown) {
            let mut policy = Policy::default();
            assert_eq!(setting.set(&mut policy, "?", SetBy::Class), None);
            assert_eq!(policy, Policy::default());
            setting.set(&mut policy, value, SetBy::Annotation).unwrap();
            assert_eq!(setting.show(&policy), shown);
            assert_eq!(policy.set_by.get(setting.name), Some(&SetBy::Annotation));
        }
    }
}
