//! The table: what servers answer, and what is made of it.

use std::time::UNIX_EPOCH;

use super::*;

const SIGNED: Signed<'static> = Signed { region: "us-east-1", has_session_token: false, now: UNIX_EPOCH };

fn get(status: u16, code: &'static str) -> Refusal<'static> {
    Refusal { operation: "get", status, code: Some(code), ..Refusal::default() }
}

fn bare(operation: &'static str, status: u16) -> Refusal<'static> {
    Refusal { operation, status, ..Refusal::default() }
}

fn check(refusal: Refusal<'static>, kind: ErrorKind) {
    let error = classify(&refusal, SIGNED);
    assert_eq!(error.kind(), kind, "{refusal:?}");
    assert_eq!(error.status(), Some(refusal.status));
    assert_eq!(error.code(), refusal.code);
}

#[test]
fn codes_decide_before_the_status() {
    for (status, code, kind) in [
        (404, "NoSuchKey", ErrorKind::NotFound),
        (404, "NoSuchBucket", ErrorKind::NoSuchBucket),
        (403, "AccessDenied", ErrorKind::Forbidden),
        (403, "InvalidAccessKeyId", ErrorKind::Forbidden),
        (403, "SignatureDoesNotMatch", ErrorKind::Forbidden),
        (403, "RequestTimeTooSkewed", ErrorKind::Transient),
        (403, "InvalidObjectState", ErrorKind::Archived),
        (403, "ExpiredToken", ErrorKind::CredentialsExpired),
        (400, "ExpiredToken", ErrorKind::CredentialsExpired),
        (400, "TokenRefreshRequired", ErrorKind::CredentialsExpired),
        (400, "InvalidToken", ErrorKind::CredentialsExpired),
        (400, "RequestTimeout", ErrorKind::Transient),
        (400, "InvalidArgument", ErrorKind::Invalid),
        (400, "SomethingNew", ErrorKind::Invalid),
        (400, "MetadataTooLarge", ErrorKind::NoSpace),
        (412, "PreconditionFailed", ErrorKind::PreconditionFailed),
        (416, "InvalidRange", ErrorKind::Invalid),
        (429, "TooManyRequests", ErrorKind::Throttled),
        (500, "InternalError", ErrorKind::Transient),
        (500, "SlowDown", ErrorKind::Throttled),
        (501, "NotImplemented", ErrorKind::Unsupported),
        (503, "SlowDown", ErrorKind::Throttled),
        (503, "SomethingNew", ErrorKind::Throttled),
    ] {
        check(get(status, code), kind);
    }
}

#[test]
fn an_answer_without_a_code_is_judged_by_its_status() {
    for (operation, status, kind) in [
        ("head", 404, ErrorKind::NotFound),
        ("get", 404, ErrorKind::NotFound),
        ("list", 404, ErrorKind::BadEndpoint),
        ("head", 403, ErrorKind::Forbidden),
        ("head", 401, ErrorKind::Forbidden),
        ("head", 400, ErrorKind::Invalid),
        ("head", 301, ErrorKind::BadEndpoint),
        ("get", 307, ErrorKind::BadEndpoint),
        ("head", 412, ErrorKind::PreconditionFailed),
        ("list", 405, ErrorKind::Unsupported),
        ("get", 408, ErrorKind::Transient),
        ("get", 416, ErrorKind::Invalid),
        ("get", 429, ErrorKind::Throttled),
        ("get", 500, ErrorKind::Transient),
        ("get", 502, ErrorKind::Transient),
        ("get", 503, ErrorKind::Throttled),
        ("get", 504, ErrorKind::Transient),
        ("get", 418, ErrorKind::Invalid),
    ] {
        check(bare(operation, status), kind);
    }
}

#[test]
fn a_bare_400_to_head_means_an_old_token_if_there_is_a_token() {
    let temporary = Signed { has_session_token: true, ..SIGNED };
    assert_eq!(classify(&bare("head", 400), temporary).kind(), ErrorKind::CredentialsExpired);
    assert_eq!(classify(&bare("get", 400), temporary).kind(), ErrorKind::Invalid);
}

#[test]
fn another_region_is_named_whatever_way_the_server_tells() {
    let by_header = |status| Refusal { region: Some("eu-west-1"), ..bare("head", status) };
    let by_code = |code| Refusal { region: Some("eu-west-1"), ..get(400, code) };
    let by_location =
        Refusal { location: Some("https://b.s3.eu-west-1.amazonaws.com/k"), ..get(307, "TemporaryRedirect") };
    for refusal in [
        by_header(301),
        by_header(400),
        by_header(307),
        by_code("AuthorizationHeaderMalformed"),
        by_code("IllegalLocationConstraintException"),
        Refusal { region: Some("eu-west-1"), ..get(301, "PermanentRedirect") },
        by_location,
    ] {
        let error = classify(&refusal, SIGNED);
        assert_eq!(
            (error.kind(), error.region()),
            (ErrorKind::WrongRegion, Some("eu-west-1")),
            "{refusal:?}"
        );
        assert!(error.to_string().contains("eu-west-1"), "{error}");
    }
    // The region is in every answer of S3; by itself it means nothing.
    check(Refusal { region: Some("eu-west-1"), ..get(404, "NoSuchKey") }, ErrorKind::NotFound);
    check(Refusal { region: Some("eu-west-1"), ..bare("head", 404) }, ErrorKind::NotFound);
    check(Refusal { region: Some("eu-west-1"), ..bare("head", 403) }, ErrorKind::Forbidden);
    // Sent on to where we are already.
    check(Refusal { region: Some("us-east-1"), ..get(301, "PermanentRedirect") }, ErrorKind::BadEndpoint);
    check(
        Refusal { region: Some("us-east-1"), ..get(400, "AuthorizationHeaderMalformed") },
        ErrorKind::Invalid,
    );
    // Nobody leads us away from Amazon.
    check(
        Refusal { location: Some("https://evil.example/k"), ..get(307, "TemporaryRedirect") },
        ErrorKind::BadEndpoint,
    );
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let now = UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    for (text, expected) in [
        ("7", Some(7)),
        (" 0 ", Some(0)),
        ("Fri, 14 Jul 2017 02:40:30 GMT", Some(30)),
        ("Fri, 14 Jul 2017 02:39:00 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        let refusal = Refusal { retry_after: Some(text), ..get(503, "SlowDown") };
        let error = classify(&refusal, Signed { now, ..SIGNED });
        assert_eq!(error.retry_after(), expected.map(Duration::from_secs), "{text}");
    }
}

#[test]
fn messages_stay_on_one_line_and_name_a_remedy() {
    let refusal = Refusal {
        message: Some("User: arn:aws:iam::1:user/x\nis not\u{7} authorized"),
        request_id: Some("4442587FB7D0A2F9"),
        ..get(403, "AccessDenied")
    };
    assert_eq!(
        classify(&refusal, SIGNED).to_string(),
        "get: access denied; reading needs s3:GetObject on the key, and s3:ListBucket to tell missing keys from forbidden ones \
         (the server says: User: arn:aws:iam::1:user/x is not authorized) (HTTP 403 AccessDenied, request 4442587FB7D0A2F9)"
    );
    for (code, remedy) in [
        ("InvalidAccessKeyId", "check that the credentials"),
        ("SignatureDoesNotMatch", "secret key is wrong"),
        ("InvalidObjectState", "restore"),
        ("RequestTimeTooSkewed", "clock"),
    ] {
        let text = classify(&get(403, code), SIGNED).to_string();
        assert!(text.contains(remedy), "{text}");
    }
    let long = "x".repeat(10_000);
    let refusal = Refusal { operation: "get", status: 500, message: Some(&long), ..Refusal::default() };
    assert!(classify(&refusal, SIGNED).to_string().len() < 400);
}

#[test]
fn elements_are_found_in_error_bodies() {
    let body =
        "<?xml version=\"1.0\"?><Error><Code>X</Code><Region>eu-west-1</Region><Empty></Empty></Error>";
    assert_eq!(element(body, "Region"), Some("eu-west-1"));
    assert_eq!(element(body, "Empty"), None);
    assert_eq!(element(body, "Missing"), None);
    assert_eq!(element("<Region>cut", "Region"), None);
}
