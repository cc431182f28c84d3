//! Puts a `ClientConfig` into the SDK's terms: credentials, endpoint, addressing, limits; all but the region, which may change.

use std::sync::Arc;
use std::time::Duration;

use aws_config::provider_config::ProviderConfig;
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedCredentialsProvider, StalledStreamProtectionConfig,
    retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_smithy_async::time::SharedTimeSource;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_types::SdkConfig;
use aws_types::service_config::ServiceConfigKey;

use super::clock::ServerClock;
use super::header_limit::HeaderLimit;
use super::quiet::SILENCE_LIMIT;
use super::redirect::Leads;
use crate::config::{AddressingStyle, BucketType, ClientConfig, CredentialSource, StaticKeys};
use crate::credentials::{CredentialCache, default_chain};
use crate::endpoint::{Endpoint, Scheme};
use crate::error::{Error, ErrorKind, Result};
use crate::http_client::http_client;
use crate::region::{DEFAULT_REGION, discover_region};

/// How long a client waits from sending a request to the answer's headers. (The SDK counts the request's body to that time.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// As long as the first byte of a read may take.
    FirstByte,
    /// For ever: how long a body takes is for whoever watches its progress to judge.
    Send,
    /// As long as an answer that takes work may be silent.
    Finish,
}

/// Clients of one bucket, some per region that it turns out to be in.
pub(super) struct ClientTemplate {
    builder: Builder,
    /// What the clients send with.
    pub(super) http: SharedHttpClient,
    endpoint: Option<Endpoint>,
    connect_timeout: Duration,
    /// The region to begin with.
    pub(super) region: Arc<str>,
    /// `None` if requests are not signed.
    pub(super) credentials: Option<Arc<CredentialCache>>,
}

impl ClientTemplate {
    /// Reads what the chosen credential source allows to be read, and builds all but the client.
    pub(super) async fn load(bucket: &str, config: &ClientConfig, clock: &ServerClock) -> Result<Self> {
        let http = http_client(config)?;
        let provider = ProviderConfig::without_region().with_http_client(http.clone());
        let shared = match config.credentials {
            CredentialSource::DefaultChain => Some(load_shared(config, &http).await),
            _ => None,
        };
        let endpoint_url = config.endpoint_url.clone().or_else(|| configured_endpoint(shared.as_ref()?));
        let endpoint = parse_endpoint(endpoint_url.as_deref())?;
        let region = discover_region(config, endpoint.as_ref(), &provider).await;
        tracing::debug!(region = region.name, source = ?region.source, "region to begin with");
        let provider = provider.with_region(Some(Region::new(region.name.clone())));
        let time = SharedTimeSource::new(clock.clone());
        let cache = match &config.credentials {
            CredentialSource::DefaultChain => {
                Some(CredentialCache::new(default_chain(config, provider, region.imds_silent), time.clone()))
            }
            CredentialSource::Static(keys) => {
                Some(CredentialCache::of_keys(to_credentials(keys), time.clone()))
            }
            CredentialSource::Anonymous => None,
        };
        let credentials = cache.map(Arc::new);
        let builder = shared.as_ref().map_or_else(Builder::new, Builder::from);
        let mut builder = with_limits(builder, config).http_client(http.clone()).time_source(time);
        builder = with_addressing(builder, bucket, config, endpoint.as_ref());
        builder = match &credentials {
            Some(cache) => {
                let cache: Arc<dyn ProvideCredentials> = Arc::<CredentialCache>::clone(cache);
                builder.credentials_provider(SharedCredentialsProvider::new(cache))
            }
            None => {
                builder.set_credentials_provider(None);
                builder.allow_no_auth()
            }
        };
        if config.dual_stack {
            builder = builder.use_dual_stack(true);
        }
        builder.push_interceptor(aws_sdk_s3::config::SharedInterceptor::new(UserAgent::new(config)));
        builder.push_interceptor(aws_sdk_s3::config::SharedInterceptor::new(HeaderLimit));
        builder.push_interceptor(aws_sdk_s3::config::SharedInterceptor::new(Leads));
        let connect_timeout = config.connect_timeout;
        let region = Arc::from(region.name);
        Ok(Self { builder, http, endpoint, connect_timeout, region, credentials })
    }

    /// A client that signs for `region`. Those with the same patience share a pool of connections.
    pub(super) fn client(&self, region: &str, patience: Patience) -> Client {
        let builder = self.builder.clone().region(Region::new(region.to_owned()));
        let limits = TimeoutConfig::builder().connect_timeout(self.connect_timeout);
        let limits = match patience {
            Patience::FirstByte => return Client::from_conf(builder.build()),
            Patience::Send => limits.disable_read_timeout(),
            Patience::Finish => limits.read_timeout(SILENCE_LIMIT),
        };
        Client::from_conf(builder.timeout_config(limits.build()).build())
    }

    /// The part of the identity that tells equal bucket names apart. Names at Amazon are unique within a partition, whatever the region.
    pub(super) fn identity(&self) -> Arc<str> {
        match &self.endpoint {
            Some(endpoint) if !endpoint.is_aws() => Arc::from(endpoint.to_string()),
            _ if self.region.starts_with("cn-") => Arc::from("https://s3.amazonaws.com.cn"),
            _ if self.region.starts_with("eusc-") => Arc::from("https://s3.amazonaws.eu"),
            _ => Arc::from("https://s3.amazonaws.com"),
        }
    }
}

/// What environment and profile say apart from credentials and region.
async fn load_shared(config: &ClientConfig, http: &SharedHttpClient) -> SdkConfig {
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        // Keeps it from asking instance metadata; the true one is looked for where the endpoint is known.
        .region(Region::from_static(DEFAULT_REGION))
        .no_credentials();
    if let Some(profile) = &config.profile {
        loader = loader.profile_name(profile);
    }
    loader.load().await
}

/// `AWS_ENDPOINT_URL_S3`, then `AWS_ENDPOINT_URL`, and their twins in the profile.
fn configured_endpoint(shared: &SdkConfig) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id("S3")
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .expect("all three parts are set");
    let of_service = shared.service_config().and_then(|services| services.load_config(key));
    of_service.or_else(|| shared.endpoint_url().map(str::to_owned))
}

fn parse_endpoint(url: Option<&str>) -> Result<Option<Endpoint>> {
    let Some(url) = url else { return Ok(None) };
    let endpoint = Endpoint::parse(url).map_err(|e| {
        let message = format!("the endpoint URL {url:?} {e}");
        Error::new(ErrorKind::Invalid, "connect").with_message(message).with_source(e)
    })?;
    if endpoint.scheme == Scheme::Http && !endpoint.is_loopback() {
        tracing::warn!(%endpoint, "data travels unencrypted and unauthenticated to an http:// endpoint");
    }
    Ok(Some(endpoint))
}

fn to_credentials(keys: &StaticKeys) -> Credentials {
    let token = keys.session_token.as_ref().map(|token| token.reveal().to_owned());
    Credentials::new(&keys.access_key_id, keys.secret_access_key.reveal(), token, None, "given keys")
}

/// One attempt per request, no limits but the connection's and the first byte's: the rest is decided above.
fn with_limits(builder: Builder, config: &ClientConfig) -> Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .read_timeout(config.first_byte_timeout)
        .build();
    let mut builder = builder
        .behavior_version(BehaviorVersion::latest())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // `CredentialCache` is the cache.
        .identity_cache(IdentityCache::no_cache());
    builder.set_sleep_impl(aws_smithy_async::rt::sleep::default_async_sleep());
    builder
}

fn with_addressing(
    builder: Builder,
    bucket: &str,
    config: &ClientConfig,
    endpoint: Option<&Endpoint>,
) -> Builder {
    let path_style = match config.addressing {
        AddressingStyle::Path => true,
        AddressingStyle::VirtualHost => false,
        AddressingStyle::Auto => endpoint.is_some_and(|e| !e.is_aws()) && !bucket.starts_with("arn:"),
    };
    let mut builder = builder
        .force_path_style(path_style)
        .use_arn_region(true)
        .accelerate(config.transfer_acceleration)
        .disable_s3_express_session_auth(config.bucket_type == Some(BucketType::GeneralPurpose));
    builder.set_endpoint_url(endpoint.map(Endpoint::to_string));
    builder
}

/// Names us in the User-Agent, behind the caller's prefix and before the SDK. The header is not signed.
#[derive(Debug)]
struct UserAgent(String);

impl UserAgent {
    fn new(config: &ClientConfig) -> Self {
        let own = concat!("sluicefs/", env!("CARGO_PKG_VERSION"));
        Self(match &config.user_agent_prefix {
            Some(prefix) => format!("{prefix} {own}"),
            None => own.to_owned(),
        })
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for UserAgent {
    fn name(&self) -> &'static str {
        "UserAgent"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request_mut().headers_mut();
        let all = match headers.get("user-agent") {
            Some(sdk) => format!("{} {sdk}", self.0),
            None => self.0.clone(),
        };
        headers.try_insert("user-agent", all)?;
        Ok(())
    }
}
