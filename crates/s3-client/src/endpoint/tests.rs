//! Tables for URLs, hosts and redirects.

use super::*;

#[test]
fn endpoints_parse_and_print_back() {
    for (url, host, port, loopback, aws) in [
        ("http://127.0.0.1:9000", "127.0.0.1", Some(9000), true, false),
        ("http://[::1]:9000", "::1", Some(9000), true, false),
        ("https://localhost", "localhost", None, true, false),
        ("https://minio.example.com:9000/s3", "minio.example.com", Some(9000), false, false),
        ("https://s3.eu-west-1.amazonaws.com", "s3.eu-west-1.amazonaws.com", None, false, true),
        ("https://s3.cn-north-1.amazonaws.com.cn", "s3.cn-north-1.amazonaws.com.cn", None, false, true),
        ("https://amazonaws.com.evil.example", "amazonaws.com.evil.example", None, false, false),
    ] {
        let endpoint = Endpoint::parse(url).unwrap();
        assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{url}");
        assert_eq!((endpoint.is_loopback(), endpoint.is_aws()), (loopback, aws), "{url}");
        assert_eq!(endpoint.to_string(), url);
    }
    assert_eq!(Endpoint::parse("HTTPS://Host/").unwrap().to_string(), "https://host");
}

#[test]
fn broken_endpoints_say_what_is_wrong() {
    for (url, expected) in [
        ("minio:9000", EndpointError::Scheme),
        ("ftp://host", EndpointError::Scheme),
        ("http://", EndpointError::Host),
        ("http://a b", EndpointError::Host),
        ("http://[::1", EndpointError::Host),
        ("http://[::1]x", EndpointError::Port),
        ("http://host:port", EndpointError::Port),
        ("http://host:0", EndpointError::Port),
        ("http://host:65536", EndpointError::Port),
        ("http://user:pw@host", EndpointError::UserInfo),
        ("http://host/?x", EndpointError::Query),
    ] {
        assert_eq!(Endpoint::parse(url), Err(expected), "{url}");
    }
}

#[test]
fn redirects_name_regions_of_amazon_alone() {
    for (location, region) in [
        ("https://b.s3.eu-west-1.amazonaws.com/k?x=1", Some("eu-west-1")),
        ("https://s3-us-gov-west-1.amazonaws.com/b", Some("us-gov-west-1")),
        ("https://b.s3.dualstack.ap-south-1.amazonaws.com/", Some("ap-south-1")),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/", Some("cn-north-1")),
        ("https://b.s3.amazonaws.com/", None),
        ("https://b.s3.eu-west-1.amazonaws.com.evil.example/", None),
        ("/relative", None),
    ] {
        let host = host_of_location(location);
        assert_eq!(host.as_deref().and_then(region_of_aws_host), region, "{location}");
    }
}
