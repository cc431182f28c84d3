//! What `AwsBucket` sends when it writes, header by header.

use std::sync::Arc;

use bytes::Bytes;
use sluicefs_s3_client::config::{Secret, SseCustomerKey, StaticKeys};
use sluicefs_s3_client::{
    AwsBucket, Bucket, ByteRange, Checksum, ChecksumAlgorithm, ClientConfig, CompleteUpload, CopyPart,
    CopyRequest, CreateUpload, CredentialSource, ETag, Encryption, ErrorKind, ObjectAttributes, ObjectKey,
    Part, Payload, PutRequest, ReliableBucket, RetryConfig, StorageClass, UploadChecksums, UploadId,
    UploadPart, WriteCondition, WriteConfig, Written,
};

use crate::canned::{Canned, Reply, Request, error, reply};

const ETAG: &str = "ETag: \"e1\"";

async fn bucket(server: &Canned, edit: impl FnOnce(&mut ClientConfig)) -> AwsBucket {
    let keys = StaticKeys {
        access_key_id: "AKIAEXAMPLE".into(),
        secret_access_key: Secret::new("secret"),
        session_token: None,
    };
    let mut config = ClientConfig {
        endpoint_url: Some(server.url()),
        credentials: CredentialSource::Static(keys),
        ..ClientConfig::default()
    };
    edit(&mut config);
    AwsBucket::connect("b", &config).await.unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn text(pieces: &[&'static str]) -> Payload {
    pieces.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect::<Vec<_>>().into()
}

fn put(condition: WriteCondition) -> PutRequest {
    let attributes = ObjectAttributes {
        content_type: Some("text/plain".to_owned()),
        user_metadata: vec![("mode".to_owned(), "33188".to_owned())],
        headers: vec![("expires", "never".to_owned())],
    };
    PutRequest { key: key("k"), body: text(&["1234", "56789"]), attributes, condition }
}

/// The one request that came, checked for these headers; `-` for one that must not be there.
fn sent(server: &Canned, expected: &[(&str, &str)]) -> Request {
    let [request] = &*server.requests() else { panic!("one request, not {:?}", server.requests()) };
    for (name, value) in expected {
        assert_eq!(request.header(name).unwrap_or("-"), *value, "{name} of {request:?}");
    }
    request.clone()
}

#[tokio::test]
async fn a_put_sends_its_bytes_unsigned_with_their_checksum() {
    for (checksums, crc64, crc32) in [
        (UploadChecksums::Crc64Nvme, "rosUhgp5mIg=", "-"),
        (UploadChecksums::Crc32c, "-", "4waSgw=="),
        (UploadChecksums::Off, "-", "-"),
    ] {
        let server = Canned::start(|_| reply(200, ETAG, "")).await;
        let bucket = bucket(&server, |config| config.write.upload_checksums = checksums).await;
        let written = bucket.put(put(WriteCondition::Absent)).await.unwrap();
        assert_eq!(written.etag, Some(ETag::new("\"e1\"")));
        let request = sent(
            &server,
            &[
                ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
                ("x-amz-checksum-crc64nvme", crc64),
                ("x-amz-checksum-crc32c", crc32),
                ("x-amz-trailer", "-"),
                ("content-encoding", "-"),
                ("content-length", "9"),
                ("content-type", "text/plain"),
                ("x-amz-meta-mode", "33188"),
                ("expires", "never"),
                ("if-none-match", "*"),
                ("if-match", "-"),
                ("x-amz-storage-class", "-"),
            ],
        );
        assert_eq!((request.method.as_str(), request.body.as_str()), ("PUT", "123456789"));
    }
}

#[tokio::test]
async fn an_answer_without_an_etag_is_good_for_a_directory_marker_alone() {
    let server = Canned::start(|_| reply(200, "", "")).await;
    let bucket = ReliableBucket::new(Arc::new(bucket(&server, |_| {}).await), RetryConfig::default());
    let put = |name, body| PutRequest { key: key(name), body, ..put(WriteCondition::Any) };
    assert_eq!(bucket.put(put("d/", Payload::default())).await.unwrap(), Written::default());
    for (name, body) in [("d", Payload::default()), ("d/", text(&["bytes"]))] {
        let error = bucket.put(put(name, body)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}: {error}");
    }
}

#[tokio::test]
async fn everything_that_is_written_is_stored_as_the_settings_say() {
    let edit = |config: &mut ClientConfig| {
        config.requester_pays = true;
        config.expected_bucket_owner = Some("123456789012".to_owned());
        config.write = WriteConfig {
            storage_class: Some("STANDARD_IA".to_owned()),
            encryption: Some(Encryption::Kms { key_id: Some("alias/k".to_owned()), bucket_key: Some(true) }),
            acl: Some("bucket-owner-full-control".to_owned()),
            tags: vec![("team".to_owned(), "a b".to_owned())],
            ..WriteConfig::default()
        };
    };
    let stored = [
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "alias/k"),
        ("x-amz-server-side-encryption-bucket-key-enabled", "true"),
        ("x-amz-acl", "bucket-owner-full-control"),
        ("x-amz-tagging", "team=a%20b"),
        ("x-amz-request-payer", "requester"),
        ("x-amz-expected-bucket-owner", "123456789012"),
    ];
    let server = Canned::start(|_| reply(200, ETAG, "")).await;
    bucket(&server, edit).await.put(put(WriteCondition::Matches(ETag::new("\"e0\"")))).await.unwrap();
    let request = sent(&server, &stored);
    assert_eq!(request.header("if-match"), Some("\"e0\""));
    // What decides how objects are stored must be signed.
    let signed = request.header("authorization").unwrap();
    assert!(signed.contains("x-amz-server-side-encryption;"), "{signed}");

    let server = Canned::start(|_| created()).await;
    let create = CreateUpload { key: key("k"), attributes: ObjectAttributes::default(), storage_class: None };
    bucket(&server, edit).await.create_upload(create).await.unwrap();
    sent(&server, &stored);

    let server = Canned::start(|_| copied("CopyObjectResult")).await;
    bucket(&server, edit).await.copy(copy(None)).await.unwrap();
    sent(&server, &stored);
    sent(&server, &[("x-amz-tagging-directive", "REPLACE"), ("x-amz-metadata-directive", "-")]);
}

#[tokio::test]
async fn a_copy_is_in_the_tier_of_its_source_unless_the_settings_name_one() {
    for (named, class, expected) in [
        (None, Some(StorageClass::GlacierIr), "GLACIER_IR"),
        (None, None, "-"),
        (Some("STANDARD"), Some(StorageClass::GlacierIr), "STANDARD"),
    ] {
        let edit = |config: &mut ClientConfig| config.write.storage_class = named.map(str::to_owned);
        let expected = [("x-amz-storage-class", expected)];
        let server = Canned::start(|_| copied("CopyObjectResult")).await;
        let request = CopyRequest { storage_class: class, ..copy(None) };
        bucket(&server, edit).await.copy(request).await.unwrap();
        sent(&server, &expected);
        let server = Canned::start(|_| created()).await;
        let attributes = ObjectAttributes::default();
        let create = CreateUpload { key: key("k"), attributes, storage_class: class };
        bucket(&server, edit).await.create_upload(create).await.unwrap();
        sent(&server, &expected);
    }
}

#[tokio::test]
async fn customers_keys_go_along_for_both_ends_of_a_copy() {
    let key_text = "YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE=";
    let edit = |config: &mut ClientConfig| config.sse_customer_key = Some(SseCustomerKey::new([b'a'; 32]));
    let server = Canned::start(|_| reply(200, ETAG, "")).await;
    bucket(&server, edit).await.put(put(WriteCondition::Any)).await.unwrap();
    let target = [
        ("x-amz-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-server-side-encryption-customer-key", key_text),
        ("x-amz-server-side-encryption-customer-key-md5", "Xsqb0+sHwAbNQ65I395/0w=="),
    ];
    sent(&server, &target);
    let source = [
        ("x-amz-copy-source-server-side-encryption-customer-algorithm", "AES256"),
        ("x-amz-copy-source-server-side-encryption-customer-key", key_text),
    ];
    let server = Canned::start(|_| copied("CopyObjectResult")).await;
    bucket(&server, edit).await.copy(copy(None)).await.unwrap();
    sent(&server, &target);
    sent(&server, &source);
    let server = Canned::start(|_| copied("CopyPartResult")).await;
    bucket(&server, edit).await.copy_part(copy_part()).await.unwrap();
    sent(&server, &target);
    sent(&server, &source);
}

#[tokio::test]
async fn copies_name_their_source_encoded_and_their_conditions() {
    let server = Canned::start(|_| copied("CopyObjectResult")).await;
    let attributes = ObjectAttributes { content_type: Some("a/b".to_owned()), ..ObjectAttributes::default() };
    let request = CopyRequest {
        source_if_match: Some(ETag::new("\"s\"")),
        condition: WriteCondition::Absent,
        ..copy(Some(attributes))
    };
    bucket(&server, |_| {}).await.copy(request).await.unwrap();
    sent(
        &server,
        &[
            ("x-amz-copy-source", "b/from%20here/a%2Bb%25"),
            ("x-amz-copy-source-if-match", "\"s\""),
            ("if-none-match", "*"),
            ("x-amz-metadata-directive", "REPLACE"),
            ("content-type", "a/b"),
            ("x-amz-tagging-directive", "-"),
        ],
    );
    let server = Canned::start(|_| copied("CopyPartResult")).await;
    let part = bucket(&server, |_| {}).await.copy_part(copy_part()).await.unwrap();
    assert_eq!((part.etag, part.size), (ETag::new("\"e1\""), 90));
    sent(&server, &[("x-amz-copy-source-range", "bytes=10-99")]);
}

fn copied(root: &str) -> Reply {
    reply(200, "", format!("<{root}><ETag>&quot;e1&quot;</ETag></{root}>"))
}

fn created() -> Reply {
    reply(
        200,
        "",
        "<InitiateMultipartUploadResult><Key>k\u{1}</Key><UploadId>u</UploadId></InitiateMultipartUploadResult>",
    )
}

fn copy(attributes: Option<ObjectAttributes>) -> CopyRequest {
    CopyRequest {
        source: key("from here/a+b%"),
        source_if_match: None,
        target: key("k"),
        attributes,
        storage_class: None,
        condition: WriteCondition::Any,
    }
}

fn copy_part() -> CopyPart {
    CopyPart {
        key: key("k"),
        upload: UploadId::new("u"),
        number: 7,
        source: key("from here/a+b%"),
        source_range: ByteRange::new(10, 100),
        source_if_match: None,
    }
}

#[tokio::test]
async fn uploads_in_parts_end_with_the_checksum_of_the_whole() {
    let server = Canned::start(|_| created()).await;
    let create = CreateUpload { key: key("k"), attributes: ObjectAttributes::default(), storage_class: None };
    let upload = bucket(&server, |_| {}).await.create_upload(create).await.unwrap();
    assert_eq!(upload.as_str(), "u");
    let kind = [("x-amz-checksum-algorithm", "CRC64NVME"), ("x-amz-checksum-type", "FULL_OBJECT")];
    sent(&server, &kind);

    let server = Canned::start(|_| reply(200, ETAG, "")).await;
    let send = UploadPart { key: key("k"), upload: upload.clone(), number: 7, body: text(&["123456789"]) };
    let part = bucket(&server, |_| {}).await.upload_part(send).await.unwrap();
    let request = sent(
        &server,
        &[("x-amz-checksum-crc64nvme", "rosUhgp5mIg="), ("x-amz-content-sha256", "UNSIGNED-PAYLOAD")],
    );
    assert!(request.target.contains("partNumber=7") && request.target.contains("uploadId=u"), "{request:?}");

    let server = Canned::start(|_| {
        let answer = "<CompleteMultipartUploadResult><Key>k\u{1}</Key><ETag>\"e-2\"</ETag></CompleteMultipartUploadResult>";
        reply(200, "", answer)
    })
    .await;
    let twice = vec![part.clone(), Part { number: 8, ..part }];
    let complete = CompleteUpload { key: key("k"), upload, parts: twice, condition: WriteCondition::Absent };
    bucket(&server, |_| {}).await.complete_upload(complete).await.unwrap();
    let whole =
        Checksum::of(ChecksumAlgorithm::Crc64Nvme, text(&["123456789", "123456789"]).pieces()).to_string();
    let request = sent(
        &server,
        &[
            ("x-amz-checksum-crc64nvme", &whole),
            ("x-amz-checksum-type", "FULL_OBJECT"),
            ("x-amz-mp-object-size", "18"),
            ("if-none-match", "*"),
        ],
    );
    for part in ["<PartNumber>7</PartNumber>", "<ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME>"] {
        assert!(request.body.contains(part), "{request:?}");
    }
}

#[tokio::test]
async fn many_deletions_are_one_request_with_its_md5() {
    let server = Canned::start(|_| reply(200, "", "<DeleteResult/>")).await;
    let keys = [key("a b"), key("<&>")];
    assert!(bucket(&server, |_| {}).await.delete_many(&keys).await.unwrap().is_empty());
    let request = sent(&server, &[]);
    assert!(
        request.body.contains("<Key>a b</Key>") && request.body.contains("<Quiet>true</Quiet>"),
        "{request:?}"
    );
    assert!(request.header("content-md5").is_some_and(|md5| md5.len() == 24), "{request:?}");

    let failed = "<DeleteResult><Error><Key>a b</Key><Code>AccessDenied</Code></Error></DeleteResult>";
    let server = Canned::start(move |_| reply(200, "", failed)).await;
    let failed = bucket(&server, |_| {}).await.delete_many(&keys).await.unwrap();
    let [(failed, cause)] = &*failed else { panic!("{failed:?}") };
    assert_eq!((failed.as_str(), cause.kind()), ("a b", ErrorKind::Forbidden));
}

#[tokio::test]
async fn servers_that_refuse_checksums_are_told_apart_from_others() {
    for (code, more, named) in
        [("NotImplemented", "", true), ("InvalidArgument", "<Detail/>", false), ("InvalidRequest", "", false)]
    {
        let server =
            Canned::start(move |_| error(if code == "NotImplemented" { 501 } else { 400 }, code, more)).await;
        let error = bucket(&server, |_| {}).await.put(put(WriteCondition::Any)).await.unwrap_err();
        assert_eq!(error.to_string().contains("--upload-checksums off"), named, "{error}");
    }
}

#[tokio::test]
async fn the_meaning_of_refusals_depends_on_what_was_asked() {
    let absent = |_: &Request| error(404, "NoSuchKey", "");
    let conflict = |_: &Request| error(409, "ConditionalRequestConflict", "");
    let matching = || put(WriteCondition::Matches(ETag::new("\"e0\"")));
    let server = Canned::start(absent).await;
    let failed = bucket(&server, |_| {}).await.put(matching()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::PreconditionFailed, "nothing is there to match");
    let failed = bucket(&server, |_| {}).await.copy(copy(None)).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::NotFound, "there is no source");
    bucket(&server, |_| {}).await.delete(&key("k")).await.unwrap();
    let server = Canned::start(conflict).await;
    let failed = bucket(&server, |_| {}).await.put(matching()).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Transient, "a put may be made again");
    let parts = vec![Part { number: 1, etag: ETag::new("\"p\""), size: 1, checksum: None }];
    let condition = WriteCondition::Absent;
    let complete = CompleteUpload { key: key("k"), upload: UploadId::new("u"), parts, condition };
    let failed = bucket(&server, |_| {}).await.complete_upload(complete).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::PreconditionFailed, "the parts are of no use any more");
}
