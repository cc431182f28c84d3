//! The AWS order of credential sources, asked one by one so that the answer can say who was asked and why not.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::ecs::EcsCredentialsProvider;
use aws_config::environment::EnvironmentVariableCredentialsProvider;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;

use super::{Found, Load};
use crate::config::ClientConfig;
use crate::region::imds_client;

/// One source of a chain.
pub(crate) struct Link {
    /// As logs call it.
    pub(crate) name: &'static str,
    pub(crate) provider: Box<dyn ProvideCredentials>,
    /// How long it may take; the sources have limits of their own too.
    pub(crate) limit: Duration,
}

const INSTANCE_METADATA: &str = "instance metadata";

/// Sources that talk to STS or SSO, or run a process, may be slow; nobody waits longer than this.
const SOURCE_LIMIT: Duration = Duration::from_secs(30);

/// The default chain; a named profile makes it that profile alone, as the AWS command line does. With `imds_silent` the first
/// search leaves instance metadata out: nobody answered there a moment ago.
pub(crate) fn default_chain(config: &ClientConfig, provider: ProviderConfig, imds_silent: bool) -> Load {
    let config = config.clone();
    let imds_silent = AtomicBool::new(imds_silent);
    Box::new(move || {
        let mut links = links(&config, &provider);
        if imds_silent.swap(false, Ordering::Relaxed) {
            links.retain(|link| link.name != INSTANCE_METADATA);
        }
        Box::pin(async move { first_of(&links).await })
    })
}

fn links(config: &ClientConfig, provider: &ProviderConfig) -> Vec<Link> {
    let link = |name, provider, limit| Link { name, provider, limit };
    let profile = ProfileFileCredentialsProvider::builder().configure(provider);
    if let Some(name) = &config.profile {
        let profile = profile.profile_name(name).build();
        return vec![link("profile", Box::new(profile), SOURCE_LIMIT)];
    }
    let imds = ImdsCredentialsProvider::builder()
        .configure(provider)
        .imds_client(imds_client(config, provider))
        .build();
    vec![
        link("environment", Box::new(EnvironmentVariableCredentialsProvider::new()), SOURCE_LIMIT),
        link("profile", Box::new(profile.build()), SOURCE_LIMIT),
        link(
            "web identity token",
            Box::new(WebIdentityTokenCredentialsProvider::builder().configure(provider).build()),
            SOURCE_LIMIT,
        ),
        link(
            "container",
            Box::new(EcsCredentialsProvider::builder().configure(provider).build()),
            SOURCE_LIMIT,
        ),
        link(INSTANCE_METADATA, Box::new(imds), config.imds_timeout),
    ]
}

/// Asks each source until one answers. A source that is set up but fails ends the search: falling through to another identity
/// would hide it.
pub(crate) async fn first_of(links: &[Link]) -> Result<Found, CredentialsError> {
    let mut reasons = Vec::new();
    for link in links {
        match tokio::time::timeout(link.limit, link.provider.provide_credentials()).await {
            Ok(Ok(credentials)) => return Ok((credentials, link.name)),
            Ok(Err(error @ CredentialsError::CredentialsNotLoaded(_))) => {
                tracing::debug!(source = link.name, reason = %explain(&error), "no credentials here");
                reasons.push(format!("{}: {}", link.name, explain(&error)));
            }
            Ok(Err(error)) => return Err(named(link.name, error)),
            // Outside EC2 the metadata address may swallow packets: nobody there.
            Err(_) if link.name == INSTANCE_METADATA => {
                reasons.push(format!("{}: no answer in {:?}", link.name, link.limit));
            }
            Err(_) => return Err(CredentialsError::provider_timed_out(link.limit)),
        }
    }
    Err(CredentialsError::not_loaded(reasons.join("; ")))
}

fn named(name: &str, error: CredentialsError) -> CredentialsError {
    let text = format!("{name}: {}", explain(&error));
    match error {
        CredentialsError::InvalidConfiguration(_) => CredentialsError::invalid_configuration(text),
        CredentialsError::Unhandled(_) => CredentialsError::unhandled(text),
        _ => CredentialsError::provider_error(text),
    }
}

/// The innermost reason of an error, on one line: the outer ones only say that there is an inner one.
pub(crate) fn explain(error: &CredentialsError) -> String {
    let mut text = error.to_string();
    let mut next = StdError::source(error);
    while let Some(inner) = next {
        text = inner.to_string();
        next = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
