//! Why a request was answered as it was: a closed set, the same word in the reply, the metric label and the access log.

use std::fmt;

/// Declares the set once: name, status, word for people.
macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $status:literal $text:literal,)*) => {
        /// Why a request was answered as it was.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The CamelCase word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => stringify!($name),)* }
            }

            /// Status of the reply; 0: none is sent.
            pub const fn status(self) -> u16 {
                match self { $(Reason::$name => $status,)* }
            }

            /// A sentence for the body.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// A backend answered.
    Upstream = 0 "A backend answered.",
    /// Static content was served.
    StaticFile = 200 "Static content.",
    /// The client has the static content already.
    NotModified = 304 "Not modified.",
    /// The traffic health path was asked.
    Healthy = 200 "The gateway is serving.",
    /// The traffic health path was asked while the gateway is not ready.
    NotReady = 503 "The gateway is not ready.",
    /// Plain HTTP to a host with TLS.
    TlsRedirect = 308 "This host is served over https.",
    /// The request cannot be understood without guessing.
    BadRequest = 400 "The request is malformed.",
    /// Plain HTTP on a port for HTTPS.
    PlainOnTls = 400 "Plain HTTP was sent to the HTTPS port.",
    /// No rule, default backend or catch-all takes the request.
    NoRoute = 404 "No route for this host and path.",
    /// Static content has no such file.
    FileNotFound = 404 "No such file.",
    /// A method that is not served there.
    MethodNotAllowed = 405 "Method not allowed.",
    /// The client was too slow.
    ClientTimeout = 408 "The request took too long to arrive.",
    /// The client went away.
    ClientClosed = 0 "The client closed the connection.",
    /// The body is larger than the route takes.
    BodyTooLarge = 413 "The body of the request is too large.",
    /// The target is longer than it may be.
    TargetTooLong = 414 "The target of the request is too long.",
    /// The request expects something else than `100-continue`.
    ExpectationFailed = 417 "The request expects what cannot be met.",
    /// TLS was ended here for a host whose TLS is passed through.
    Misdirected = 421 "TLS of this host is passed through: ask on a connection of its own.",
    /// The head is larger than it may be, or has too many fields.
    HeadTooLarge = 431 "The header fields of the request are too large.",
    /// The client did not take the answer.
    ClientStalled = 0 "The client does not take the answer.",
    /// Nothing moved either way for too long, after the answer had begun.
    IdleTimeout = 0 "Nothing moved for too long.",
    /// Something in the gateway failed.
    InternalError = 500 "Internal error.",
    /// No endpoint could be connected to.
    ConnectFailed = 502 "No connection to a backend could be made.",
    /// The backend closed or reset the connection before its answer was complete.
    UpstreamReset = 502 "The backend closed the connection.",
    /// The backend's answer is no HTTP.
    UpstreamInvalid = 502 "The backend's answer is malformed.",
    /// The backend did not answer in time.
    UpstreamTimeout = 504 "The backend did not answer in time.",
    /// The gateway's memory runs out.
    MemoryExhausted = 503 "The gateway has no memory left for more requests.",
    /// Too many requests are on their way to backends.
    TooManyInFlight = 503 "Too many requests are being served.",
    /// The Service does not exist.
    ServiceNotFound = 503 "The Service does not exist.",
    /// The Service does not have the port.
    PortNotFound = 503 "The Service has no such port.",
    /// The Service cannot be proxied.
    ServiceUnsupported = 503 "The Service cannot be proxied.",
    /// No endpoint is there.
    NoEndpoints = 503 "The Service has no ready endpoint.",
    /// No endpoint has an address that may be connected to.
    EndpointsRefused = 503 "The addresses of the backend are refused.",
    /// The name of an ExternalName Service does not resolve.
    NameUnresolved = 503 "The name of the backend does not resolve.",
    /// The backend's source is bad and no good form is known.
    BackendInvalid = 503 "The backend's configuration is invalid.",
    /// A rule whose backend has both a service and a resource.
    BackendAmbiguous = 503 "The rule's backend is ambiguous.",
    /// A rule whose backend has neither.
    BackendMissing = 503 "The rule has no backend.",
    /// A resource backend of a kind that is not served.
    ResourceUnsupported = 503 "The resource backend is of a kind that is not supported.",
    /// An Ingress whose access rule is not supported: closed, and not open to everybody.
    AccessRuleUnsupported = 503 "An access rule of the Ingress is not supported.",
    /// A ConfigMap that does not exist.
    ConfigMapNotFound = 503 "The ConfigMap does not exist.",
    /// A ConfigMap that may not be served.
    NotPublished = 503 "The ConfigMap is not published.",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
