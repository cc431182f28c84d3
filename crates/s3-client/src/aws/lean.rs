//! GET and HEAD without the SDK's machinery: the same request, the same answer, at a fraction of the processor time.
//!
//! For every request the SDK resolves the endpoint, chooses how to sign and runs some thirty hooks, which costs more than all the rest of
//! a small read; and for all GETs of one connection it comes out the same. So it is asked once for each: a made-up request is recorded where it
//! would be sent, and serves as the pattern of those that are.
//!
//! That ours are what the SDK would have sent is not believed but tried: the made-up request is put together here as well, and unless both
//! are equal in every byte, signature included, the SDK goes on sending (S3 Express signs with sessions, access points of several regions
//! with another algorithm). Connections, TLS, proxies and time limits are the SDK's connector, signatures the `aws-sigv4` crate's, and
//! answers are read by the SDK's own deserializer.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sdk_s3::config::{self, Config, SharedCredentialsProvider};
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObject, GetObjectError, GetObjectOutput};
use aws_sdk_s3::operation::head_object::{HeadObject, HeadObjectError, HeadObjectOutput};
use aws_sdk_s3::primitives::ByteStream;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use aws_smithy_async::time::{SharedTimeSource, StaticTimeSource};
use aws_smithy_http::label::{EncodingStrategy, fmt_string};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connection::CaptureSmithyConnection;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::interceptors::context;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse, OrchestratorError};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_runtime_api::client::runtime_plugin::RuntimePlugin;
use aws_smithy_runtime_api::client::ser_de::{DeserializeResponse, SharedResponseDeserializer};
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::{ConfigBag, FrozenLayer};
use parking_lot::Mutex;

use super::{header_limit, redirect};

/// An operation of the SDK, under the name of its type there.
pub(super) trait Operation {
    const METHOD: &'static str;
    type Output: fmt::Debug + Send + Sync + 'static;
    type Error: StdError + Send + Sync + 'static;

    /// Holds its deserializer.
    fn settings() -> Option<FrozenLayer>;
}

impl Operation for GetObject {
    const METHOD: &'static str = "GET";
    type Output = GetObjectOutput;
    type Error = GetObjectError;

    fn settings() -> Option<FrozenLayer> {
        Self::new().config()
    }
}

impl Operation for HeadObject {
    const METHOD: &'static str = "HEAD";
    type Output = HeadObjectOutput;
    type Error = HeadObjectError;

    fn settings() -> Option<FrozenLayer> {
        Self::new().config()
    }
}

/// What one request asks for, in the words of its headers.
#[derive(Debug)]
pub(super) struct Wanted<'a> {
    pub(super) key: &'a str,
    pub(super) range: Option<String>,
    pub(super) if_match: Option<String>,
    pub(super) checksum: ChecksumMode,
}

/// Whether to ask for the stored checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChecksumMode {
    Ask,
    /// For ranges, whose bytes no stored checksum covers, and for servers that refuse the header.
    Omit,
}

impl<'a> Wanted<'a> {
    /// The object `key` and nothing special.
    pub(super) fn new(key: &'a str) -> Self {
        Self { key, range: None, if_match: None, checksum: ChecksumMode::Omit }
    }

    /// Everything that a request may have at once, but for `range`.
    fn made_up(range: Option<&str>) -> Wanted<'static> {
        Wanted {
            // Bytes that are written in another way in a URL, and some that only look so.
            key: "/a b//\u{fc}+%25:~(x)/./..//=&?#",
            range: range.map(str::to_owned),
            if_match: Some("\"0\"".to_owned()),
            checksum: ChecksumMode::Ask,
        }
    }
}

/// What [`Lean::send`] comes to: what the SDK's own call would.
type Sent<T, O> = Result<T, SdkError<<O as Operation>::Error, HttpResponse>>;

/// How to send one operation over one connection of a bucket.
pub(super) struct Lean<O> {
    connector: SharedHttpConnector,
    pattern: Pattern,
    /// Holds the deserializer of answers, and is what it finds its settings in.
    settings: ConfigBag,
    operation: PhantomData<O>,
}

impl<O: Operation> Lean<O> {
    /// Asks the SDK for its request, signed as `credentials` if there are any: `call` makes the SDK's call for what it is given, under
    /// the settings it is given. Sends nothing.
    ///
    /// `None` if the SDK sends otherwise than we would.
    pub(super) async fn learn<F: Future<Output = ()>>(
        http: &SharedHttpClient,
        credentials: Option<&Credentials>,
        now: SystemTime,
        call: impl FnOnce(&Wanted<'_>, config::Builder) -> F,
    ) -> Option<Self> {
        let wanted = Wanted::made_up((O::METHOD == "GET").then_some("bytes=1-2"));
        let (recorded, connector) =
            record(http, credentials, now, |settings| call(&wanted, settings)).await?;
        let pattern = Pattern::of(&recorded, &wanted)?;
        let ours = pattern.request(O::METHOD, &wanted, credentials, now).ok()?;
        if !is_same(&ours, &recorded) {
            tracing::debug!(
                method = O::METHOD,
                "requests are sent by the SDK, which does not sign as we would"
            );
            return None;
        }
        let mut settings = ConfigBag::base();
        settings.push_shared_layer(O::settings()?);
        settings.load::<SharedResponseDeserializer>()?;
        Some(Self { connector, pattern, settings, operation: PhantomData })
    }

    /// Sends one request and waits for the headers of the answer. Returns its status too.
    ///
    /// # Errors
    /// What the SDK's own call would return.
    pub(super) async fn send(
        &self,
        wanted: &Wanted<'_>,
        credentials: Option<&Credentials>,
        now: SystemTime,
    ) -> Sent<(O::Output, u16), O> {
        let request = self.pattern.request(O::METHOD, wanted, credentials, now);
        let mut request = request.map_err(SdkError::construction_failure)?;
        let connection = CaptureSmithyConnection::new();
        request.add_extension(connection.clone());
        let mut response = self.connector.call(request).await.map_err(SdkError::dispatch_failure)?;
        if let Err(error) = header_limit::check(response.headers()) {
            return Err(SdkError::response_error(error, response));
        }
        let status = response.status();
        // S3 hands out what was stored with the object, and the deserializer would refuse what is no date; the SDK renames it too.
        if let Some(expires) = response.headers_mut().remove("expires") {
            response.headers_mut().insert("expiresstring", expires);
        }
        let read = match self.answers().deserialize_streaming_with_config(&mut response, &self.settings) {
            Some(read) => read,
            None => {
                // As the SDK does, leave a server that fails over this connection.
                if status.is_server_error()
                    && let Some(connection) = connection.get()
                {
                    connection.poison();
                }
                match ByteStream::new(response.take_body()).collect().await {
                    Ok(body) => *response.body_mut() = SdkBody::from(body.into_bytes()),
                    Err(error) => return Err(SdkError::response_error(error, response)),
                }
                self.answers().deserialize_nonstreaming_with_config(&response, &self.settings)
            }
        };
        match read {
            Ok(output) => {
                Ok((output.downcast().expect("the deserializer makes its output"), status.as_u16()))
            }
            Err(error) if error.is_operation_error() => {
                Err(SdkError::service_error(into_refusal(error), response))
            }
            Err(error) => Err(SdkError::response_error(error, response)),
        }
    }

    fn answers(&self) -> &SharedResponseDeserializer {
        self.settings.load::<SharedResponseDeserializer>().expect("it was there when this was made")
    }
}

impl<O> fmt::Debug for Lean<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lean").field("pattern", &self.pattern).finish_non_exhaustive()
    }
}

fn into_refusal<E: StdError + Send + Sync + 'static>(error: OrchestratorError<context::Error>) -> E {
    let mut refusal = None;
    // The one way to the error's inside that gives it away.
    let _rest = error.map_operation_error(|error| refusal = error.downcast().ok());
    refusal.expect("the deserializer makes its error")
}

/// What all requests have in common.
struct Pattern {
    before_key: String,
    after_key: String,
    /// Headers of every request; one of them may be a secret.
    headers: Headers,
    /// What signatures are for; `None` if requests are not signed.
    scope: Option<Scope>,
}

/// Where a signature is good (Signature Version 4, "credential scope").
#[derive(Debug, PartialEq, Eq)]
struct Scope {
    region: String,
    service: String,
}

/// Headers that differ from request to request, and the SDK's own numbering of calls and attempts, which S3 has no use for.
const CHANGING: [&str; 9] = [
    AUTHORIZATION,
    "amz-sdk-invocation-id",
    "amz-sdk-request",
    CHECKSUM_MODE,
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    IF_MATCH,
    RANGE,
];

const AUTHORIZATION: &str = "authorization";
const CHECKSUM_MODE: &str = "x-amz-checksum-mode";
const IF_MATCH: &str = "if-match";
const RANGE: &str = "range";

impl Pattern {
    fn of(recorded: &HttpRequest, wanted: &Wanted<'_>) -> Option<Self> {
        let (before_key, after_key) = recorded.uri().split_once(&path_of(wanted.key))?;
        let scope = match recorded.headers().get(AUTHORIZATION) {
            Some(authorization) => Some(Scope::of(authorization)?),
            None => None,
        };
        let mut headers = recorded.headers().clone();
        for name in CHANGING {
            headers.remove(name);
        }
        Some(Self { before_key: before_key.to_owned(), after_key: after_key.to_owned(), headers, scope })
    }

    fn request(
        &self,
        method: &'static str,
        wanted: &Wanted<'_>,
        credentials: Option<&Credentials>,
        now: SystemTime,
    ) -> Result<HttpRequest, BoxError> {
        let mut request = HttpRequest::empty();
        request.set_method(method)?;
        request.set_uri([&self.before_key, &*path_of(wanted.key), &self.after_key].concat())?;
        redirect::lead(&mut request)?;
        *request.headers_mut() = self.headers.clone();
        let headers = request.headers_mut();
        if let Some(range) = &wanted.range {
            headers.try_insert(RANGE, range.clone())?;
        }
        if let Some(etag) = &wanted.if_match {
            headers.try_insert(IF_MATCH, etag.clone())?;
        }
        if wanted.checksum == ChecksumMode::Ask {
            headers.try_insert(CHECKSUM_MODE, "ENABLED")?;
        }
        match (&self.scope, credentials) {
            (Some(scope), Some(credentials)) => scope.sign(&mut request, credentials, now)?,
            (None, _) => {}
            (Some(_), None) => return Err("there are no credentials to sign with".into()),
        }
        Ok(request)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pattern")
            .field("before_key", &self.before_key)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Scope {
    /// `AWS4-HMAC-SHA256 Credential=AKID/20260102/eu-west-1/s3/aws4_request, ...`
    fn of(authorization: &str) -> Option<Self> {
        let credential = authorization.strip_prefix("AWS4-HMAC-SHA256 Credential=")?.split(',').next()?;
        let mut parts = credential.rsplit('/');
        let (end, service, region) = (parts.next()?, parts.next()?, parts.next()?);
        (end == "aws4_request").then(|| Self { region: region.to_owned(), service: service.to_owned() })
    }

    fn sign(
        &self,
        request: &mut HttpRequest,
        credentials: &Credentials,
        now: SystemTime,
    ) -> Result<(), BoxError> {
        let identity = credentials.clone().into();
        // S3 takes the path as it is written, and wants the payload's hash in a header.
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(&self.service)
            .time(now)
            .settings(settings)
            .build()?
            .into();
        let (method, headers) = (request.method(), request.headers().iter());
        let signable = SignableRequest::new(method, request.uri(), headers, SignableBody::empty())?;
        let (signed, _) = sign(signable, &params)?.into_parts();
        for header in signed.into_parts().0 {
            let mut value = http::HeaderValue::from_str(header.value())?;
            value.set_sensitive(header.sensitive());
            request.headers_mut().try_insert(header.name(), value)?;
        }
        Ok(())
    }
}

/// A key as the SDK writes it into a URL.
fn path_of(key: &str) -> String {
    fmt_string(key, EncodingStrategy::Greedy)
}

/// Whether two requests are the same but for the SDK's numbering.
fn is_same(ours: &HttpRequest, sdks: &HttpRequest) -> bool {
    let headers = |request: &HttpRequest| {
        let numbering = |name: &str| name.starts_with("amz-sdk-");
        let all = request.headers().iter().filter(|(name, _)| !numbering(name));
        let mut all: Vec<(String, String)> =
            all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        all.sort();
        all
    };
    ours.method() == sdks.method() && ours.uri() == sdks.uri() && headers(ours) == headers(sdks)
}

/// What the SDK would send for `call`, and with what; `None` if it does not come so far.
async fn record<F: Future<Output = ()>>(
    http: &SharedHttpClient,
    credentials: Option<&Credentials>,
    now: SystemTime,
    call: impl FnOnce(config::Builder) -> F,
) -> Option<(HttpRequest, SharedHttpConnector)> {
    let seen = Seen::default();
    let recorder = Recorder { real: http.clone(), seen: Arc::clone(&seen) };
    let time = SharedTimeSource::new(StaticTimeSource::new(now));
    let mut settings = Config::builder().http_client(recorder).time_source(time);
    if let Some(credentials) = credentials {
        settings = settings.credentials_provider(SharedCredentialsProvider::new(credentials.clone()));
    }
    call(settings).await;
    seen.lock().take()
}

type Seen = Arc<Mutex<Option<(HttpRequest, SharedHttpConnector)>>>;

/// Keeps the last request instead of sending it, and what would have sent it.
#[derive(Debug)]
struct Recorder<T> {
    real: T,
    seen: Seen,
}

impl HttpClient for Recorder<SharedHttpClient> {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        let real = self.real.http_connector(settings, components);
        SharedHttpConnector::new(Recorder { real, seen: Arc::clone(&self.seen) })
    }
}

impl HttpConnector for Recorder<SharedHttpConnector> {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        *self.seen.lock() = Some((request, self.real.clone()));
        HttpConnectorFuture::ready(Err(ConnectorError::user("recorded, not sent".into())))
    }
}

#[cfg(test)]
mod tests;
