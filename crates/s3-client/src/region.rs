//! The region to sign for first, from the sources that aws-config knows; instance metadata last and under a limit of its own.
//!
//! A wrong guess is no error: the bucket answers with its region and [`AwsBucket`](crate::AwsBucket) follows.

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::ProvideRegion;
use aws_config::profile::region::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;

use crate::config::{ClientConfig, CredentialSource};
use crate::endpoint::Endpoint;

/// What Amazon itself assumes of a client without a region.
pub(crate) const DEFAULT_REGION: &str = "us-east-1";

/// Which source named the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionSource {
    Setting,
    Environment,
    Profile,
    InstanceMetadata,
    Default,
}

/// Where a search for the region ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundRegion {
    pub(crate) name: String,
    pub(crate) source: RegionSource,
    /// Nobody answered at the metadata address; asking there for credentials at once would cost the same wait again.
    pub(crate) imds_silent: bool,
}

/// Finds the region to sign for first: the setting, then (with the default chain) environment, profile and instance metadata, else
/// `us-east-1`. The instance's own region says nothing about an endpoint that is not Amazon's.
pub(crate) async fn discover_region(
    config: &ClientConfig,
    endpoint: Option<&Endpoint>,
    provider: &ProviderConfig,
) -> FoundRegion {
    let found = |name: String, source| FoundRegion { name, source, imds_silent: false };
    if let Some(region) = &config.region {
        return found(region.clone(), RegionSource::Setting);
    }
    if config.credentials != CredentialSource::DefaultChain {
        return found(DEFAULT_REGION.to_owned(), RegionSource::Default);
    }
    if let Some(region) = EnvironmentVariableRegionProvider::new().region().await {
        return found(region.to_string(), RegionSource::Environment);
    }
    let mut profile = ProfileFileRegionProvider::builder().configure(provider);
    if let Some(name) = &config.profile {
        profile = profile.profile_name(name);
    }
    if let Some(region) = profile.build().region().await {
        return found(region.to_string(), RegionSource::Profile);
    }
    if endpoint.is_some_and(|endpoint| !endpoint.is_aws()) {
        return found(DEFAULT_REGION.to_owned(), RegionSource::Default);
    }
    let imds = ImdsRegionProvider::builder().configure(provider).imds_client(imds_client(config, provider));
    match tokio::time::timeout(config.imds_timeout, imds.build().region()).await {
        Ok(Some(region)) => found(region.to_string(), RegionSource::InstanceMetadata),
        Ok(None) | Err(_) => {
            FoundRegion { imds_silent: true, ..found(DEFAULT_REGION.to_owned(), RegionSource::Default) }
        }
    }
}

/// A client of EC2 instance metadata that gives up early, as most machines have none.
pub(crate) fn imds_client(config: &ClientConfig, provider: &ProviderConfig) -> aws_config::imds::Client {
    aws_config::imds::Client::builder()
        .configure(provider)
        .max_attempts(2)
        .connect_timeout(config.imds_timeout / 2)
        .read_timeout(config.imds_timeout / 2)
        .build()
}
