//! The `s3s` view of buckets in memory: each S3 operation in a few lines, and the lies it tells when a fault asks for them.

mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use s3s::crypto::{Checksum as _, Crc64Nvme};
use s3s::dto::{self, Timestamp};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use sluicefs_s3_client::testing::memory::StoredObject;
use sluicefs_s3_client::testing::{Content, MemoryBucket};
use sluicefs_s3_client::{
    Bucket as _, ByteRange, ContinuationToken, ErrorKind, KeyPrefix, ListPage, ListRequest, ObjectHead,
    ObjectKey, ObjectMeta, StorageClass,
};

use crate::names::{form_decode, form_encode};
use crate::wire::Lie;

/// Bytes in one piece of a reply's body.
const PIECE_BYTES: u64 = 128 << 10;

/// The most names of one listing page, whatever was asked for.
const MAX_PAGE_KEYS: u16 = 1000;

/// What HEAD and GET tell alike, each in a type of its own.
macro_rules! described {
    ($output:ident, $head:ident, $checksum:ident) => {
        dto::$output {
            accept_ranges: Some("bytes".to_owned()),
            checksum_type: $checksum.as_ref().map(|_| full_object()),
            checksum_crc64nvme: $checksum,
            cache_control: header(&$head, "cache-control"),
            content_disposition: header(&$head, "content-disposition"),
            content_encoding: header(&$head, "content-encoding"),
            content_language: header(&$head, "content-language"),
            content_type: $head.content_type.clone(),
            e_tag: etag(&$head),
            last_modified: Some(last_modified(&$head.meta)),
            metadata: metadata(&$head),
            restore: restore(&$head),
            server_side_encryption: $head.encryption.clone().map(Into::into),
            storage_class: storage_class(&$head).map(|class| dto::StorageClass::from(class.to_owned())),
            version_id: $head.version_id,
            ..Default::default()
        }
    };
}

/// Buckets by name.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) buckets: Arc<BTreeMap<String, MemoryBucket>>,
    pub(crate) region: String,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.buckets.keys()).finish()
    }
}

/// The CRC-64/NVME of `content` in base64, as S3 stores it with an object.
pub fn crc64nvme(content: &Content) -> String {
    let mut crc = Crc64Nvme::new();
    for piece in pieces(content.clone(), ByteRange::new(0, content.len())) {
        crc.update(&piece);
    }
    let hasher = s3s::checksum::ChecksumHasher { crc64nvme: Some(crc), ..Default::default() };
    hasher.finalize().checksum_crc64nvme.expect("the one that was asked for")
}

fn pieces(content: Content, range: ByteRange) -> impl Iterator<Item = Bytes> + Send + Sync + 'static {
    let starts = (range.start..range.end).step_by(PIECE_BYTES as usize);
    starts.map(move |at| content.slice(ByteRange::from_len(at, PIECE_BYTES).intersect(range)))
}

impl Store {
    fn bucket(&self, name: &str) -> S3Result<&MemoryBucket> {
        self.buckets.get(name).ok_or_else(|| s3_error!(NoSuchBucket, "The specified bucket does not exist"))
    }

    fn object(&self, bucket: &str, key: &str) -> S3Result<StoredObject> {
        let missing = || s3_error!(NoSuchKey, "The specified key does not exist.");
        self.bucket(bucket)?.object(key).ok_or_else(missing)
    }
}

#[async_trait]
impl S3 for Store {
    async fn list_buckets(
        &self,
        _: S3Request<dto::ListBucketsInput>,
    ) -> S3Result<S3Response<dto::ListBucketsOutput>> {
        let bucket = |name: &String| dto::Bucket { name: Some(name.clone()), ..Default::default() };
        let buckets = self.buckets.keys().map(bucket).collect();
        Ok(S3Response::new(dto::ListBucketsOutput { buckets: Some(buckets), ..Default::default() }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<dto::HeadBucketInput>,
    ) -> S3Result<S3Response<dto::HeadBucketOutput>> {
        self.bucket(&request.input.bucket)?;
        let bucket_region = Some(self.region.clone());
        Ok(S3Response::new(dto::HeadBucketOutput { bucket_region, ..Default::default() }))
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<dto::GetBucketLocationInput>,
    ) -> S3Result<S3Response<dto::GetBucketLocationOutput>> {
        self.bucket(&request.input.bucket)?;
        // The oldest region has no name here.
        let named = (self.region != "us-east-1").then(|| self.region.clone().into());
        Ok(S3Response::new(dto::GetBucketLocationOutput { location_constraint: named }))
    }

    async fn head_object(
        &self,
        request: S3Request<dto::HeadObjectInput>,
    ) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        let input = request.input;
        let object = self.object(&input.bucket, &input.key)?;
        check_conditions(&object.head, input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let StoredObject { head, crc64nvme, .. } = object;
        let checksum = crc64nvme.filter(|_| input.checksum_mode.is_some());
        let size = head.meta.size;
        let mut output = described!(HeadObjectOutput, head, checksum);
        output.content_length = Some(length(size));
        Ok(S3Response::new(output))
    }

    async fn get_object(
        &self,
        request: S3Request<dto::GetObjectInput>,
    ) -> S3Result<S3Response<dto::GetObjectOutput>> {
        let lies = request.extensions.get::<Lie>().copied().unwrap_or_default();
        let input = request.input;
        let StoredObject { content, head, crc64nvme } = self.object(&input.bucket, &input.key)?;
        let if_match = input.if_match.as_ref().filter(|_| !lies.ignore_if_match);
        check_conditions(&head, if_match, input.if_none_match.as_ref())?;
        if head.meta.storage_class.is_archive() && !head.restored {
            return Err(s3_error!(
                InvalidObjectState,
                "The operation is not valid for the object's storage class"
            ));
        }
        let asked = input.range.filter(|_| !lies.ignore_range);
        let range = match asked {
            Some(range) => range.check(content.len())?.into(),
            None => ByteRange::new(0, content.len()),
        };
        let range = lies.range(range, content.len());
        let checksum = crc64nvme.filter(|_| input.checksum_mode.is_some() && asked.is_none());
        let content_range =
            asked.map(|_| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), content.len()));
        let body = pieces(content, lies.bytes(range)).map(Ok::<_, std::io::Error>);
        let mut output = described!(GetObjectOutput, head, checksum);
        output.body = Some(dto::StreamingBlob::wrap(stream::iter(body)));
        output.content_length = Some(length(range.len()));
        output.content_range = content_range;
        Ok(S3Response::new(output))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<dto::ListObjectsV2Input>,
    ) -> S3Result<S3Response<dto::ListObjectsV2Output>> {
        let lies = request.extensions.get::<Lie>().copied().unwrap_or_default();
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let asked = page_request(&input)?;
        let page = if lies.ignore_max_keys {
            whole_listing(bucket, asked).await?
        } else {
            list(bucket, asked).await?
        };
        let mut output = page_output(input, page);
        if lies.repeat_token {
            output.is_truncated = Some(true);
            output.next_continuation_token =
                output.continuation_token.clone().or(output.next_continuation_token);
        }
        if lies.endless_tokens {
            let number: u64 = output.continuation_token.as_deref().and_then(|t| t.parse().ok()).unwrap_or(0);
            output.is_truncated = Some(true);
            output.next_continuation_token = Some((number + 1).to_string());
        }
        Ok(S3Response::new(output))
    }

    async fn put_object(
        &self,
        request: S3Request<dto::PutObjectInput>,
    ) -> S3Result<S3Response<dto::PutObjectOutput>> {
        self.put(request.input).await.map(S3Response::new)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        self.create_upload(request.input).await.map(S3Response::new)
    }

    async fn upload_part(
        &self,
        request: S3Request<dto::UploadPartInput>,
    ) -> S3Result<S3Response<dto::UploadPartOutput>> {
        Store::upload_part(self, request.input).await.map(S3Response::new)
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<dto::UploadPartCopyInput>,
    ) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        self.copy_part(request.input).await.map(S3Response::new)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        self.complete_upload(request.input).await.map(S3Response::new)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::AbortMultipartUploadOutput>> {
        self.abort_upload(request.input).await?;
        Ok(S3Response::new(dto::AbortMultipartUploadOutput::default()))
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<dto::ListMultipartUploadsOutput>> {
        self.list_uploads(request.input).await.map(S3Response::new)
    }

    async fn copy_object(
        &self,
        request: S3Request<dto::CopyObjectInput>,
    ) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        self.copy(request.input, &request.headers).await.map(S3Response::new)
    }

    async fn delete_object(
        &self,
        request: S3Request<dto::DeleteObjectInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectOutput>> {
        self.bucket(&request.input.bucket)?.remove(&request.input.key);
        Ok(S3Response::new(dto::DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<dto::DeleteObjectsInput>,
    ) -> S3Result<S3Response<dto::DeleteObjectsOutput>> {
        self.delete_many(request.input).await.map(S3Response::new)
    }
}

// === conditions and headers ===

fn check_conditions(
    head: &ObjectHead,
    if_match: Option<&dto::ETagCondition>,
    if_none_match: Option<&dto::ETagCondition>,
) -> S3Result<()> {
    let current = etag(head);
    let holds = |condition: &dto::ETagCondition| match condition.as_etag() {
        None => true,
        Some(tag) => current.as_ref().is_some_and(|current| current.value() == tag.value()),
    };
    if if_match.is_some_and(|condition| !holds(condition)) {
        return Err(s3_error!(
            PreconditionFailed,
            "At least one of the pre-conditions you specified did not hold"
        ));
    }
    if if_none_match.is_some_and(holds) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

fn etag(head: &ObjectHead) -> Option<dto::ETag> {
    let text = head.meta.etag.as_ref()?.to_string();
    Some(dto::ETag::parse_http_header(text.as_bytes()).unwrap_or(dto::ETag::Strong(text)))
}

fn last_modified(meta: &ObjectMeta) -> Timestamp {
    timestamp(meta.last_modified)
}

fn timestamp(time: sluicefs_s3_client::Timestamp) -> Timestamp {
    let seconds = u64::try_from(time.secs).unwrap_or_default();
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn metadata(head: &ObjectHead) -> Option<dto::Metadata> {
    (!head.user_metadata.is_empty()).then(|| head.user_metadata.iter().cloned().collect())
}

fn header(head: &ObjectHead, name: &str) -> Option<String> {
    head.headers.iter().find(|(header, _)| *header == name).map(|(_, value)| value.clone())
}

fn restore(head: &ObjectHead) -> Option<String> {
    head.restored
        .then(|| "ongoing-request=\"false\", expiry-date=\"Fri, 21 Dec 2035 00:00:00 GMT\"".to_owned())
}

/// S3 leaves the header out for STANDARD.
fn storage_class(head: &ObjectHead) -> Option<&'static str> {
    let class = head.meta.storage_class;
    (class != StorageClass::Standard).then(|| class.as_str())
}

fn full_object() -> dto::ChecksumType {
    dto::ChecksumType::from_static(dto::ChecksumType::FULL_OBJECT)
}

fn length(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("objects in memory are shorter than 2^63 bytes")
}

// === listings ===

fn page_request(input: &dto::ListObjectsV2Input) -> S3Result<ListRequest> {
    let delimiter = input.delimiter.as_deref().filter(|d| !d.is_empty());
    if delimiter.is_some_and(|d| d != "/") {
        return Err(s3_error!(NotImplemented, "the only delimiter is /"));
    }
    let max_keys = input.max_keys.unwrap_or(MAX_PAGE_KEYS.into());
    let max_keys = u16::try_from(max_keys).map_err(|_| s3_error!(InvalidArgument, "max-keys"))?;
    Ok(ListRequest {
        prefix: KeyPrefix::new(input.prefix.clone().unwrap_or_default()),
        delimiter: delimiter.is_some(),
        start_after: input.start_after.clone(),
        continuation: input.continuation_token.as_deref().map(|t| ContinuationToken(form_decode(t))),
        max_keys: max_keys.min(MAX_PAGE_KEYS),
    })
}

async fn list(bucket: &MemoryBucket, request: ListRequest) -> S3Result<ListPage> {
    bucket.list(request).await.map_err(|error| match error.kind() {
        ErrorKind::Invalid => s3_error!(InvalidArgument),
        _ => s3s::S3Error::internal_error(error),
    })
}

/// All pages in one.
async fn whole_listing(bucket: &MemoryBucket, mut request: ListRequest) -> S3Result<ListPage> {
    let mut whole = ListPage::default();
    loop {
        let page = list(bucket, request.clone()).await?;
        whole.objects.extend(page.objects);
        whole.common_prefixes.extend(page.common_prefixes);
        match page.next {
            Some(next) => request.continuation = Some(next),
            None => return Ok(whole),
        }
    }
}

fn page_output(input: dto::ListObjectsV2Input, page: ListPage) -> dto::ListObjectsV2Output {
    let encoded = input.encoding_type.as_ref().is_some_and(|e| e.as_str() == dto::EncodingType::URL);
    let encode = |name: &str| if encoded { form_encode(name) } else { name.to_owned() };
    let object = |key: &ObjectKey, meta: &ObjectMeta| dto::Object {
        e_tag: meta.etag.as_ref().and_then(|e| dto::ETag::parse_http_header(e.to_string().as_bytes()).ok()),
        key: Some(encode(key.as_str())),
        last_modified: Some(last_modified(meta)),
        size: Some(length(meta.size)),
        storage_class: Some(meta.storage_class.as_str().to_owned().into()),
        ..Default::default()
    };
    let contents: Vec<_> = page.objects.iter().map(|o| object(&o.key, &o.meta)).collect();
    let prefix = |p: &KeyPrefix| dto::CommonPrefix { prefix: Some(encode(p.as_str())) };
    let common_prefixes: Vec<_> = page.common_prefixes.iter().map(prefix).collect();
    dto::ListObjectsV2Output {
        key_count: i32::try_from(contents.len() + common_prefixes.len()).ok(),
        is_truncated: Some(page.next.is_some()),
        // Opaque, and legal in XML whatever the name is.
        next_continuation_token: page.next.map(|token| form_encode(&token.0)),
        name: Some(input.bucket),
        prefix: Some(encode(input.prefix.as_deref().unwrap_or_default())),
        delimiter: input.delimiter.as_deref().map(encode),
        start_after: input.start_after.as_deref().map(encode),
        max_keys: input.max_keys.or(Some(MAX_PAGE_KEYS.into())),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        ..Default::default()
    }
}
