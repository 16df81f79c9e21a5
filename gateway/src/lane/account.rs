//! The end of a request in the general lane: its reason, its metrics, its line in the access log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::general::{Ctx, Gateway};
use crate::observe::RequestLabels;
use crate::observe::access_log::Line;
use crate::phase::{Reason, address};
use crate::upstream::connection::patience::Waits;

impl Gateway {
    /// Counts a finished request.
    pub(super) fn account(&self, session: &Session, ctx: &Ctx, status: u16) {
        let per_route = self.shared.settings.metrics_per_route;
        let route = ctx.route.as_ref().filter(|_| per_route).and_then(|route| route.ingress.as_ref());
        let labels = RequestLabels {
            class: ctx.route.as_ref().map_or_else(|| Arc::from(""), |route| route.class.clone()),
            route: route.map_or_else(|| Arc::from(""), |ingress| Arc::from(ingress.to_string())),
            method: RequestLabels::method_index(&session.req_header().method),
            status_class: (status / 100) as u8,
            reason: ctx.reason,
        };
        self.cells.request(labels, ctx.started.elapsed());
    }

    /// Writes its line to the access log.
    pub(super) fn log(&self, session: &Session, ctx: &Ctx, status: u16, upstream: Option<SocketAddr>) {
        if !self.shared.access_log.wants(ctx.reason, status) {
            return;
        }
        let request = session.req_header();
        let connection = Self::connection(ctx);
        let client = address::client(&self.shared.settings.trusted_proxies, &connection, &request.headers);
        let target = match &ctx.canonical {
            Some(canonical) => canonical.target(),
            None => request.raw_path().to_vec(),
        };
        let milliseconds = |duration: Duration| (duration.as_secs_f64() * 1e6).round() / 1e3;
        let route = ctx.route.as_deref();
        self.shared.access_log.write(&Line {
            time: ctx.wall,
            request_id: &ctx.request_id,
            client: client.to_string(),
            scheme: connection.scheme.as_str(),
            protocol: match request.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_11 => "HTTP/1.1",
                _ => "HTTP/1.0",
            },
            method: request.method.as_str(),
            host: ctx.canonical.as_ref().map_or("", |canonical| canonical.host.as_str()),
            target: String::from_utf8_lossy(&target).into_owned(),
            request_line: None,
            status,
            reason: ctx.reason.as_str(),
            detail: detail(ctx),
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
            duration_ms: milliseconds(ctx.started.elapsed()),
            upstream_ms: ctx.upstream_head.map(milliseconds),
            ingress: route.and_then(|route| route.ingress.as_ref()).map(ToString::to_string),
            class: route.map(|route| &*route.class),
            path: route.map(|route| &*route.path),
            backend: ctx.backend.as_ref().map(|backend| backend.key.to_string()),
            upstream: upstream.map(|address| address.to_string()),
            retries: ctx.attempts.retries() as u32,
            user_agent: request.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()),
        });
    }
}

/// Why an exchange with an endpoint ended, where it did so itself.
fn reason_of_exchange(ctx: &Ctx) -> Option<Reason> {
    let seen = ctx.exchange.as_ref()?;
    let slow = seen.slow().map(|waits| match waits {
        Waits::ForClient => Reason::ClientTimeout,
        Waits::ForRoom | Waits::ForAnswer => Reason::UpstreamTimeout,
        Waits::ForStream | Waits::ForUpgraded => Reason::IdleTimeout,
    });
    seen.fault().map(|_| Reason::UpstreamInvalid).or(slow)
}

/// What is wrong with a request or an answer that was refused.
fn detail(ctx: &Ctx) -> Option<&'static str> {
    let of_answer = || Some(ctx.exchange.as_ref()?.fault()?.0);
    ctx.refused.map(|refused| refused.detail).or_else(of_answer)
}

/// Status of the response that was begun; 0: none was. 100 and 103 announce one, 101 is one.
pub(super) fn final_status(session: &Session) -> u16 {
    let status = session.response_written().map_or(0, |response| response.status.as_u16());
    if matches!(status, 100 | 102..=199) { 0 } else { status }
}

/// The reason of an engine's error. A reason that a phase gave already stays.
pub(super) fn reason_of(error: &Error, ctx: &Ctx) -> Reason {
    if matches!(error.etype(), ErrorType::HTTPStatus(_)) || ctx.reason == Reason::ConnectFailed {
        return ctx.reason;
    }
    if let (ErrorSource::Upstream, Some(reason)) = (error.esource(), reason_of_exchange(ctx)) {
        return reason;
    }
    // The client has the whole answer; what it did with the rest of its request changes nothing.
    let ended = matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::ReadTimedout);
    if *error.esource() == ErrorSource::Downstream && ended && ctx.passed {
        return Reason::Upstream;
    }
    let fault = ctx.info.as_ref().and_then(|info| info.lending.fault());
    if let (ErrorSource::Downstream, Some(refused)) = (error.esource(), fault) {
        return refused.reason;
    }
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader | ErrorType::H1Error | ErrorType::H2Error) => {
            Reason::UpstreamInvalid
        }
        (ErrorSource::Upstream, _) => Reason::UpstreamReset,
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Reason::ClientTimeout,
        (ErrorSource::Downstream, ErrorType::WriteTimedout) => Reason::ClientStalled,
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Reason::BadRequest,
        (ErrorSource::Downstream, _) => Reason::ClientClosed,
        _ => Reason::InternalError,
    }
}
