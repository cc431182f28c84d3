//! Follows a redirect to another URL of the same server, once per request.
//!
//! A signature is good for one URL and a body is sent from its beginning, so the request is made and signed anew. Where to it goes travels beside
//! the call: the SDK decides on the URL, and this changes it before it signs.

use std::sync::Arc;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use parking_lot::Mutex;
use tokio::task_local;

task_local! {
    static HOP: Arc<Hop>;
}

/// The way of one request, of which it may be the second part.
#[derive(Debug, Default)]
pub(super) struct Hop {
    /// Where to, if not where the SDK would send it.
    to: Option<String>,
    asked: Mutex<Option<String>>,
    answered: Mutex<Option<String>>,
}

impl Hop {
    /// To a URL that [`Hop::next`] gave.
    pub(super) fn to(url: Option<String>) -> Arc<Self> {
        Arc::new(Self { to: url, ..Self::default() })
    }

    /// Makes the request that `send` makes on this way.
    pub(super) async fn run<F: Future>(self: &Arc<Self>, send: F) -> F::Output {
        HOP.scope(Arc::clone(self), send).await
    }

    /// Where the server wants the request to be made, if that is on the same server and this is the first way.
    pub(super) fn next(&self) -> Option<String> {
        let (asked, answered) = (self.asked.lock(), self.answered.lock());
        match self.to {
            Some(_) => None,
            None => same_server(asked.as_deref()?, answered.as_deref()?),
        }
    }
}

/// Leads a request that is not signed yet to where it is to go.
pub(super) fn lead(request: &mut HttpRequest) -> Result<(), BoxError> {
    let hop = HOP.try_with(Arc::clone);
    let Ok(hop) = hop else { return Ok(()) };
    if let Some(url) = &hop.to {
        request.set_uri(url.as_str())?;
    }
    *hop.asked.lock() = Some(request.uri().to_owned());
    Ok(())
}

/// Notes where an answer redirects its request to. 301 and 302 change what is asked, and S3 says by them that the region is another.
pub(super) fn note(answer: &HttpResponse) {
    let is_redirect = matches!(answer.status().as_u16(), 307 | 308);
    if let Some(location) = answer.headers().get("location").filter(|_| is_redirect)
        && let Ok(hop) = HOP.try_with(Arc::clone)
    {
        *hop.answered.lock() = Some(location.to_owned());
    }
}

/// The URL that `location` means to who asked for `asked`, if scheme, host and port are the same.
fn same_server(asked: &str, location: &str) -> Option<String> {
    let (scheme, rest) = asked.split_once("://")?;
    let origin = &asked[..scheme.len() + 3 + rest.find(['/', '?']).unwrap_or(rest.len())];
    let path = match location.get(..origin.len()) {
        Some(start) if start.eq_ignore_ascii_case(origin) => &location[origin.len()..],
        _ => location,
    };
    let is_path = path.starts_with('/') && !path.starts_with("//") && !path.contains(['\\', '#']);
    is_path.then(|| format!("{origin}{path}"))
}

/// Leads the SDK's requests.
#[derive(Debug)]
pub(super) struct Leads;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Leads {
    fn name(&self) -> &'static str {
        "Leads"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        lead(context.request_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_the_same_server_are_followed() {
        let asked = "http://127.0.0.1:9000/b/k?x-id=GetObject";
        for (location, expected) in [
            ("http://127.0.0.1:9000/b/k?again", Some("http://127.0.0.1:9000/b/k?again")),
            ("HTTP://127.0.0.1:9000/b/other", Some("http://127.0.0.1:9000/b/other")),
            ("/b/k?node=2", Some("http://127.0.0.1:9000/b/k?node=2")),
            ("//elsewhere/b/k", None),
            ("/\\elsewhere/b/k", None),
            ("https://127.0.0.1:9000/b/k", None),
            ("http://127.0.0.1:90000/b/k", None),
            ("http://127.0.0.1:9000@elsewhere/b/k", None),
            ("http://127.0.0.1:9000.elsewhere/b/k", None),
            ("http://127.0.0.1/b/k", None),
            ("http://user@127.0.0.1:9000/b/k", None),
            ("b/k", None),
            ("", None),
        ] {
            assert_eq!(same_server(asked, location).as_deref(), expected, "{location}");
        }
    }
}
