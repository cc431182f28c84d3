//! DeleteObject and DeleteObjects.

use std::collections::HashMap;

use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::context::BeforeTransmitInterceptorContextMut;
use md5::{Digest, Md5};

use super::classify::kind_of_code;
use super::fields::with_owner;
use super::watch::WatchAnswer;
use super::{AwsBucket, Sent, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::key::ObjectKey;

const MANY: &str = "delete many";

impl AwsBucket {
    pub(super) async fn delete_once(&self, session: &Session, key: &ObjectKey) -> Result<()> {
        let call = with_owner!(self.settings, session.client.delete_object()).key(key.as_str());
        match call.send().await.sent("delete", session, self) {
            // S3 says 204 for what is not there, others do not.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map(drop),
        }
    }

    /// Keys that have characters which XML has not are removed one by one.
    pub(super) async fn delete_many_once(
        &self,
        session: &Session,
        keys: &[ObjectKey],
    ) -> Result<Vec<(ObjectKey, Error)>> {
        let (plain, odd): (Vec<_>, Vec<_>) = keys.iter().partition(|key| is_xml(key.as_str()));
        let mut failed = Vec::new();
        if !plain.is_empty() {
            failed = self.delete_listed(session, &plain).await?;
        }
        for key in odd {
            if let Err(error) = self.delete_once(session, key).await {
                failed.push((key.clone(), self.named(error, key.as_str())));
            }
        }
        Ok(failed)
    }

    async fn delete_listed(&self, session: &Session, keys: &[&ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        let invalid = |e| Error::new(ErrorKind::Invalid, MANY).with_source(e);
        let mut objects = Vec::with_capacity(keys.len());
        for key in keys {
            objects.push(ObjectIdentifier::builder().key(key.as_str()).build().map_err(invalid)?);
        }
        let delete = Delete::builder().set_objects(Some(objects)).quiet(true).build().map_err(invalid)?;
        let call = with_owner!(self.settings, session.client.delete_objects())
            .delete(delete)
            .customize()
            .interceptor(ContentMd5)
            .interceptor(WatchAnswer::named("DeleteResult"));
        let output = call.send().await.sent(MANY, session, self)?;
        let asked: HashMap<&str, &ObjectKey> = keys.iter().map(|key| (key.as_str(), *key)).collect();
        let mut failed = Vec::new();
        for error in output.errors() {
            let Some(key) = error.key().and_then(|key| asked.get(key)) else {
                let message = format!("the answer tells of {:?}, which was not asked for", error.key());
                return Err(Error::new(ErrorKind::Corrupt, MANY).with_message(message));
            };
            if let Some(error) = to_error(error.code(), error.message()) {
                failed.push(((*key).clone(), self.named(error, key.as_str())));
            }
        }
        Ok(failed)
    }
}

/// `None` for a key that was not there.
fn to_error(code: Option<&str>, message: Option<&str>) -> Option<Error> {
    let code = code.unwrap_or_default();
    let kind = kind_of_code(code).unwrap_or(ErrorKind::Transient);
    let error = Error::new(kind, MANY).with_code(code);
    let error = match message {
        Some(message) => error.with_message(message),
        None => error,
    };
    (kind != ErrorKind::NotFound).then_some(error)
}

/// Whether XML 1.0 can hold the text, in escapes or not.
fn is_xml(text: &str) -> bool {
    text.chars().all(|c| match c {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        c => c >= ' ',
    })
}

/// Adds `Content-MD5`, which S3 demanded before there were other checksums, and servers like it still do.
#[derive(Debug)]
struct ContentMd5;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for ContentMd5 {
    fn name(&self) -> &'static str {
        "ContentMd5"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let digest = request.body().bytes().map(Md5::digest);
        if let Some(digest) = digest {
            request.headers_mut().insert("content-md5", aws_smithy_types::base64::encode(digest));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_no_xml_holds_are_told_apart() {
        for (key, xml) in [
            ("plain/a b", true),
            ("\t\n\r", true),
            ("\u{1}", false),
            ("é🦀\u{7f}", true),
            ("\u{ffff}", false),
        ] {
            assert_eq!(is_xml(key), xml, "{key:?}");
        }
    }

    #[test]
    fn absence_is_no_failure_and_the_rest_keeps_its_meaning() {
        assert!(to_error(Some("NoSuchKey"), None).is_none());
        for (code, kind) in [
            ("AccessDenied", ErrorKind::Forbidden),
            ("SlowDown", ErrorKind::Throttled),
            ("InternalError", ErrorKind::Transient),
            ("Unheard-of", ErrorKind::Transient),
        ] {
            assert_eq!(to_error(Some(code), Some("words")).map(|e| e.kind()), Some(kind), "{code}");
        }
    }
}
