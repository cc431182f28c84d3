//! A bucket at Amazon S3 or a service like it, through aws-sdk-s3: one request per call.
//!
//! The SDK signs, addresses and parses; its retries are off. GET and HEAD take a shorter way, see `lean`. What a request may still be sent
//! again for is what only this layer can mend, once each: the bucket turned out to live in another region (the client is rebuilt and
//! kept), the credentials ran out (they are fetched anew), the server redirects to itself, or it refuses the header that asks for checksums. Everything else is
//! [`ReliableBucket`](crate::ReliableBucket)'s.

mod body;
mod classify;
mod client;
mod clock;
mod copy;
mod delete;
mod fields;
mod get;
mod head;
mod header_limit;
mod lean;
mod list;
mod multipart;
mod percent;
mod put;
mod quiet;
mod redirect;
mod rename;
mod send_body;
mod stored;
mod transport;
mod watch;
mod without_key;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObject;
use aws_sdk_s3::operation::head_object::HeadObject;
use aws_sdk_s3::types::RequestPayer;
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::bucket::{
    Bucket, BucketIdentity, BucketTraits, CompleteUpload, CopyPart, CopyRequest, CreateUpload, GetReply,
    GetRequest, ListPage, ListRequest, MAX_DELETE_KEYS, ObjectHead, Part, PutRequest, RenameRequest,
    UploadId, UploadMarker, UploadPage, UploadPart, Written,
};
use crate::checksum::StoredChecksum;
use crate::config::{BucketType, ClientConfig, UploadChecksums};
use crate::credentials::{CredentialCache, Held};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{KeyPrefix, ObjectKey};

use classify::Signed;
use client::{ClientTemplate, Patience};
use clock::ServerClock;
use lean::Lean;
use redirect::Hop;
use stored::StoredWith;

/// One bucket at Amazon S3 or a service like it.
pub struct AwsBucket {
    identity: BucketIdentity,
    traits: BucketTraits,
    settings: Settings,
    template: ClientTemplate,
    connection: ArcSwap<Connection>,
    /// Held while a client is rebuilt, so that a burst of redirects rebuilds one.
    rebuilding: Mutex<()>,
    credentials: Option<Arc<CredentialCache>>,
    clock: ServerClock,
    no_checksum_mode: AtomicBool,
}

/// What every request of the bucket carries.
#[derive(Debug)]
struct Settings {
    /// A name, an alias or an ARN.
    bucket: String,
    request_payer: Option<RequestPayer>,
    expected_owner: Option<String>,
    sse_key: Option<String>,
    sse_key_md5: Option<String>,
    checksums: UploadChecksums,
    stored_with: StoredWith,
    /// Whether objects get tags.
    tags: bool,
}

impl Settings {
    fn new(bucket: &str, config: &ClientConfig) -> Self {
        Self {
            bucket: bucket.to_owned(),
            request_payer: config.requester_pays.then_some(RequestPayer::Requester),
            expected_owner: config.expected_bucket_owner.clone(),
            sse_key: config.sse_customer_key.as_ref().map(|key| key.to_base64()),
            sse_key_md5: config.sse_customer_key.as_ref().map(|key| key.md5_base64()),
            checksums: config.write.upload_checksums,
            stored_with: StoredWith::new(config),
            tags: !config.write.tags.is_empty(),
        }
    }

    fn sse_algorithm(&self) -> Option<String> {
        self.sse_key.as_ref().map(|_| "AES256".to_owned())
    }
}

/// Clients and the region that they sign for.
struct Connection {
    client: Client,
    /// For requests with bodies.
    sending: Client,
    /// For requests that the server works on for long.
    finishing: Client,
    region: Arc<str>,
    /// Learnt from the client before the first of each.
    lean_get: OnceCell<Option<Lean<GetObject>>>,
    lean_head: OnceCell<Option<Lean<HeadObject>>>,
}

impl Connection {
    fn new(template: &ClientTemplate, region: &str) -> Self {
        Self {
            client: template.client(region, Patience::FirstByte),
            sending: template.client(region, Patience::Send),
            finishing: template.client(region, Patience::Finish),
            region: Arc::from(region),
            lean_get: OnceCell::new(),
            lean_head: OnceCell::new(),
        }
    }
}

/// What one request is sent with.
struct Session {
    connection: Arc<Connection>,
    credentials: Option<Arc<Held>>,
}

impl Session {
    fn new(connection: &Arc<Connection>, credentials: Option<Arc<Held>>) -> Self {
        Self { connection: Arc::clone(connection), credentials }
    }

    fn keys(&self) -> Option<&Credentials> {
        self.credentials.as_ref().map(|held| &held.credentials)
    }
}

impl std::ops::Deref for Session {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl AwsBucket {
    /// Makes a client for `bucket`: a name, an access point alias, or the ARN of an access point.
    ///
    /// Sends nothing to the bucket; asks for the region and nothing else.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot work; `BadEndpoint` if the CA bundle is unusable.
    pub async fn connect(bucket: &str, config: &ClientConfig) -> Result<Self> {
        let invalid = |e| Error::new(ErrorKind::Invalid, "connect").with_source(e);
        config.validate().map_err(|e| invalid(e.clone()).with_message(e.to_string()))?;
        let clock = ServerClock::default();
        let template = ClientTemplate::load(bucket, config, &clock).await?;
        let directory = match config.bucket_type {
            Some(kind) => kind == BucketType::Directory,
            None => is_directory_bucket(bucket),
        };
        let identity =
            BucketIdentity { endpoint: template.identity(), name: Arc::from(format!("s3://{bucket}")) };
        let connection = Connection::new(&template, &template.region);
        Ok(Self {
            identity,
            traits: BucketTraits {
                ordered_listing: !directory,
                rename: directory,
                ..BucketTraits::default()
            },
            settings: Settings::new(bucket, config),
            connection: ArcSwap::from_pointee(connection),
            rebuilding: Mutex::new(()),
            credentials: template.credentials.clone(),
            template,
            clock,
            no_checksum_mode: AtomicBool::new(false),
        })
    }

    /// Sends a request, and once more for each thing that this layer can mend.
    async fn request<T, F>(&self, key: &str, send: impl Fn(Session) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let (mut moved, mut refreshed, mut redirected) = (false, false, None);
        loop {
            let connection = self.connection.load_full();
            let credentials = match &self.credentials {
                Some(cache) => Some(cache.get().await.map_err(|e| self.named(e, key))?),
                None => None,
            };
            let session = Session::new(&connection, credentials.clone());
            let hop = Hop::to(redirected.clone());
            let error = match hop.run(send(session)).await {
                Ok(done) => return Ok(done),
                Err(error) => self.named(error, key),
            };
            if error.kind() == ErrorKind::BadEndpoint
                && let Some(url) = hop.next()
            {
                tracing::debug!(bucket = %self.identity.name, url, "redirected by the server to itself");
                redirected = Some(url);
                continue;
            }
            match (error.kind(), &self.credentials, &credentials) {
                (ErrorKind::WrongRegion, ..) if !moved && self.follow(&connection, &error) => moved = true,
                (ErrorKind::CredentialsExpired, Some(cache), Some(refused)) if !refreshed => {
                    cache.invalidate(refused);
                    refreshed = true;
                }
                _ => return Err(error),
            }
        }
    }

    /// Makes the region that `error` names the bucket's; whether that changed anything since `used`.
    fn follow(&self, used: &Arc<Connection>, error: &Error) -> bool {
        let Some(region) = error.region() else { return false };
        let _rebuilding = self.rebuilding.lock();
        let current = self.connection.load();
        if current.region == used.region {
            if *current.region == *region {
                return false;
            }
            tracing::info!(bucket = %self.identity.name, region, assumed = %used.region, "the bucket is in another region");
            self.connection.store(Arc::new(Connection::new(&self.template, region)));
        }
        true
    }

    fn named(&self, error: Error, key: &str) -> Error {
        let error = error.with_bucket(&self.identity.name);
        if key.is_empty() { error } else { error.with_key(key) }
    }

    fn refuses_checksum_mode(&self) -> bool {
        self.no_checksum_mode.load(Ordering::Relaxed)
    }

    fn stop_asking_for_checksums(&self, refused: &Error) {
        if !self.no_checksum_mode.swap(true, Ordering::Relaxed) {
            tracing::warn!(bucket = %self.identity.name, error = %refused, "the server refuses x-amz-checksum-mode; whole objects are read without S3's checksums from now on");
        }
    }
}

/// The outcome of an SDK call, as ours.
trait Sent {
    type Output;

    fn sent(self, operation: &'static str, session: &Session, bucket: &AwsBucket) -> Result<Self::Output>;
}

impl<O, E> Sent for Result<O, SdkError<E, HttpResponse>>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    type Output = O;

    fn sent(self, operation: &'static str, session: &Session, bucket: &AwsBucket) -> Result<O> {
        self.map_err(|error| {
            if let Some(raw) = error.raw_response() {
                bucket.clock.correct(raw);
                redirect::note(raw);
            }
            let has_session_token =
                session.credentials.as_ref().is_some_and(|held| held.credentials.session_token().is_some());
            let signed = Signed { region: &session.region, has_session_token, now: bucket.clock.now() };
            classify::from_sdk(operation, error, signed)
        })
    }
}

/// Directory buckets end in `--x-s3`, their access points in `--xa-s3` (Amazon S3 User Guide, "Directory bucket naming rules").
fn is_directory_bucket(bucket: &str) -> bool {
    bucket.ends_with("--x-s3") || bucket.ends_with("--xa-s3")
}

#[async_trait]
impl Bucket for AwsBucket {
    fn identity(&self) -> &BucketIdentity {
        &self.identity
    }

    fn traits(&self) -> BucketTraits {
        self.traits
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectHead> {
        self.request(key.as_str(), |session| async move { self.head_once(&session, key).await }).await
    }

    async fn head_with_checksum(&self, key: &ObjectKey) -> Result<(ObjectHead, Option<StoredChecksum>)> {
        let send = |session| async move { self.head_with_checksum_once(&session, key).await };
        self.request(key.as_str(), send).await
    }

    async fn get(&self, request: GetRequest) -> Result<GetReply> {
        let request = &request;
        self.request(request.key.as_str(), |session| async move { self.get_once(&session, request).await })
            .await
    }

    async fn list(&self, request: ListRequest) -> Result<ListPage> {
        let request = &request;
        self.request(
            request.prefix.as_str(),
            |session| async move { self.list_once(&session, request).await },
        )
        .await
    }

    async fn put(&self, request: PutRequest) -> Result<Written> {
        let request = &request;
        self.request(request.key.as_str(), |session| async move { self.put_once(&session, request).await })
            .await
    }

    async fn create_upload(&self, request: CreateUpload) -> Result<UploadId> {
        let request = &request;
        let send = |session| async move { self.create_upload_once(&session, request).await };
        self.request(request.key.as_str(), send).await
    }

    async fn upload_part(&self, request: UploadPart) -> Result<Part> {
        let request = &request;
        let send = |session| async move { self.upload_part_once(&session, request).await };
        self.request(request.key.as_str(), send).await
    }

    async fn copy_part(&self, request: CopyPart) -> Result<Part> {
        let request = &request;
        let send = |session| async move { self.copy_part_once(&session, request).await };
        self.request(request.key.as_str(), send).await
    }

    async fn complete_upload(&self, request: CompleteUpload) -> Result<Written> {
        let request = &request;
        let send = |session| async move { self.complete_upload_once(&session, request).await };
        self.request(request.key.as_str(), send).await
    }

    async fn abort_upload(&self, key: &ObjectKey, upload: &UploadId) -> Result<()> {
        let send = |session| async move { self.abort_upload_once(&session, key, upload).await };
        self.request(key.as_str(), send).await
    }

    async fn list_uploads(&self, prefix: &KeyPrefix, marker: Option<UploadMarker>) -> Result<UploadPage> {
        let marker = marker.as_ref();
        let send = |session| async move { self.list_uploads_once(&session, prefix, marker).await };
        self.request(prefix.as_str(), send).await
    }

    async fn delete(&self, key: &ObjectKey) -> Result<()> {
        self.request(key.as_str(), |session| async move { self.delete_once(&session, key).await }).await
    }

    async fn delete_many(&self, keys: &[ObjectKey]) -> Result<Vec<(ObjectKey, Error)>> {
        if keys.len() > MAX_DELETE_KEYS {
            let message = format!("{} keys in one request, which takes {MAX_DELETE_KEYS}", keys.len());
            let error = Error::new(ErrorKind::Invalid, "delete many").with_message(message);
            return Err(self.named(error, keys[0].as_str()));
        }
        let first = keys.first().map_or("", ObjectKey::as_str);
        self.request(first, |session| async move { self.delete_many_once(&session, keys).await }).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<Written> {
        let request = &request;
        let send = |session| async move { self.copy_once(&session, request).await };
        self.request(request.target.as_str(), send).await
    }

    async fn rename(&self, request: RenameRequest) -> Result<()> {
        let request = &request;
        let send = |session| async move { self.rename_once(&session, request).await };
        self.request(request.target.as_str(), send).await
    }
}

impl fmt::Debug for AwsBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsBucket")
            .field("identity", &self.identity)
            .field("region", &self.connection.load().region)
            .finish_non_exhaustive()
    }
}
