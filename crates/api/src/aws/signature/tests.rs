//! Against AWS's own published examples, and what must not come in.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::*;

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
/// 30 August 2015, 12:36:00 UTC.
const NOW: i64 = 1_440_938_160;
const TIME: &str = "20150830T123600Z";

fn keys() -> AccessKeys {
    AccessKeys::parse(&format!("# ours\n{KEY} {SECRET}\n")).expect("a key")
}

fn call(method: Method, uri: &str, headers: &[(&'static str, &str)], body: &'static str) -> Call {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).expect("ASCII")))
        .collect();
    Call { method, uri: uri.parse().expect("a URI"), headers, body: Bytes::from_static(body.as_bytes()) }
}

/// Signs as a client does, over what the verifier takes for canonical.
fn signed(service: Service, mut call: Call, names: &str) -> Call {
    let authorization = |signature: &str| {
        let scope = format!("{KEY}/20150830/us-east-1/{}/aws4_request", service.signing_name());
        let text = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}");
        HeaderValue::from_str(&text).expect("ASCII")
    };
    call.headers.insert("host", HeaderValue::from_static("example.amazonaws.com"));
    call.headers.insert("x-amz-date", HeaderValue::from_static(TIME));
    call.headers.insert(AUTHORIZATION, authorization(&"0".repeat(64)));
    let claim = Claim::of(&call).expect("a claim");
    let hash = payload_hash(&claim, service, &call).expect("a hash");
    let request = canonical::request(&claim, service, &call, &hash).expect("canonical");
    let text = format!("AWS4-HMAC-SHA256\n{TIME}\n{}\n{}", claim.scope(), sha256(request.as_bytes()));
    let signature = hex(hmac::sign(&signing_key(SECRET, &claim), text.as_bytes()).as_ref());
    call.headers.insert(AUTHORIZATION, authorization(&signature));
    call
}

/// The published example "GET Object" of the S3 documentation: what it signs is fixed by AWS, not by this code.
#[test]
fn the_documented_get_object_is_accepted() {
    let keys = AccessKeys::parse("AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY").expect("a key");
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let authorization = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
                         SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
                         Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41";
    let headers = [
        ("host", "examplebucket.s3.amazonaws.com"),
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", empty),
        ("x-amz-date", "20130524T000000Z"),
        ("authorization", authorization),
    ];
    let get = call(Method::GET, "/test.txt", &headers, "");
    let caller = verify(&keys, Service::S3, &get, 1_369_353_600).expect("signed");
    assert_eq!(caller.access_key_id, "AKIAIOSFODNN7EXAMPLE");
    // One byte of anything that was signed makes it another request.
    let other = call(Method::GET, "/test.txt", &[&headers[..1], &[("range", "bytes=0-8")], &headers[2..]].concat(), "");
    assert_eq!(verify(&keys, Service::S3, &other, 1_369_353_600), Err(Refusal::WrongSignature));
}

/// The published signed URL of the S3 documentation.
#[test]
fn the_documented_signed_url_is_accepted_until_it_expires() {
    let keys = AccessKeys::parse("AKIAIOSFODNN7EXAMPLE wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY").expect("a key");
    let uri = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
               &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
               &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
               &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let get = call(Method::GET, uri, &[("host", "examplebucket.s3.amazonaws.com")], "");
    let signed_at = 1_369_353_600;
    assert!(verify(&keys, Service::S3, &get, signed_at + 86_400).is_ok());
    assert_eq!(verify(&keys, Service::S3, &get, signed_at + 86_401), Err(Refusal::Expired));
    let more = [("host", "examplebucket.s3.amazonaws.com"), ("x-amz-copy-source", "/bucket/secret")];
    let copy = call(Method::PUT, uri, &more, "");
    let unsigned = Err(Refusal::Unsigned("x-amz-copy-source".to_owned()));
    assert_eq!(verify(&keys, Service::S3, &copy, signed_at), unsigned);
}

#[test]
fn paths_are_encoded_twice_but_for_s3() {
    let arn = "/FeatureGroup/arn%3Aaws%3Asagemaker%3Aus-east-1%3A123456789012%3Afeature-group%2Fmy-fg?b=%20&a=1";
    let put = signed(Service::SageMaker, call(Method::PUT, arn, &[], "{}"), "host;x-amz-date");
    let claim = Claim::of(&put).expect("a claim");
    let request = canonical::request(&claim, Service::SageMaker, &put, "hash").expect("canonical");
    let lines: Vec<_> = request.lines().collect();
    assert!(lines[1].starts_with("/FeatureGroup/arn%253Aaws%253Asagemaker"), "{}", lines[1]);
    assert_eq!(lines[2], "a=1&b=%20");
    assert!(verify(&keys(), Service::SageMaker, &put, NOW).is_ok());
    let as_s3 = canonical::request(&claim, Service::S3, &put, "hash").expect("canonical");
    assert!(as_s3.lines().nth(1).is_some_and(|path| path.starts_with("/FeatureGroup/arn%3Aaws")));
}

#[test]
fn what_was_not_signed_so_stays_out() {
    let put = signed(Service::SageMaker, call(Method::PUT, "/FeatureGroup/a?x=1", &[], "{}"), "host;x-amz-date");
    assert!(verify(&keys(), Service::SageMaker, &put, NOW).is_ok());
    let changed = |change: &dyn Fn(&mut Call)| {
        let mut call = put.clone();
        change(&mut call);
        verify(&keys(), Service::SageMaker, &call, NOW)
    };
    let wrong = Err(Refusal::WrongSignature);
    assert_eq!(changed(&|call| call.body = Bytes::from_static(b"{ }")), wrong);
    assert_eq!(changed(&|call| call.method = Method::DELETE), wrong);
    assert_eq!(changed(&|call| call.uri = "/FeatureGroup/b?x=1".parse().expect("a URI")), wrong);
    assert_eq!(changed(&|call| call.uri = "/FeatureGroup/a?x=2".parse().expect("a URI")), wrong);
    let host = HeaderValue::from_static("elsewhere");
    assert_eq!(changed(&|call| drop(call.headers.insert("host", host.clone()))), wrong);
    let target = HeaderValue::from_static("SageMaker.DeleteFeatureGroup");
    assert_eq!(
        changed(&|call| drop(call.headers.insert("x-amz-target", target.clone()))),
        Err(Refusal::Unsigned("x-amz-target".to_owned()))
    );
    let source = HeaderValue::from_static("/bucket/secret");
    assert_eq!(
        changed(&|call| drop(call.headers.insert("x-amz-copy-source", source.clone()))),
        Err(Refusal::Unsigned("x-amz-copy-source".to_owned()))
    );
    assert_eq!(changed(&|call| drop(call.headers.remove(AUTHORIZATION))), Err(Refusal::NotSigned));
    let other = AccessKeys::parse(&format!("{KEY} another")).expect("a key");
    assert_eq!(verify(&other, Service::SageMaker, &put, NOW), wrong);
    let nobody = AccessKeys::parse("SOMEBODY secret").expect("a key");
    assert_eq!(verify(&nobody, Service::SageMaker, &put, NOW), Err(Refusal::UnknownKey));
    assert!(matches!(verify(&keys(), Service::Athena, &put, NOW), Err(Refusal::Scope(_))));
}

#[test]
fn clocks_may_be_five_minutes_apart() {
    let put = signed(Service::SageMaker, call(Method::PUT, "/FeatureGroup/a", &[], ""), "host;x-amz-date");
    for now in [NOW - 300, NOW, NOW + 300] {
        assert!(verify(&keys(), Service::SageMaker, &put, now).is_ok(), "{now}");
    }
    assert_eq!(verify(&keys(), Service::SageMaker, &put, NOW + 301), Err(Refusal::Late { seconds: 301 }));
    assert_eq!(verify(&keys(), Service::SageMaker, &put, NOW - 301), Err(Refusal::Early { seconds: 301 }));
}

#[test]
fn bodies_of_s3_may_stay_unsigned_and_no_others() {
    let told = [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")];
    let names = "host;x-amz-content-sha256;x-amz-date";
    let put = signed(Service::S3, call(Method::PUT, "/bucket/key", &told, "body"), names);
    let mut other_body = put.clone();
    other_body.body = Bytes::from_static(b"other");
    assert!(verify(&keys(), Service::S3, &put, NOW).is_ok());
    assert!(verify(&keys(), Service::S3, &other_body, NOW).is_ok());
    let claim = Claim::of(&put).expect("a claim");
    assert_eq!(payload_hash(&claim, Service::SageMaker, &put), Err(Refusal::WrongBody));
    let chunked = call(Method::PUT, "/b/k", &[("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")], "");
    assert!(matches!(payload_hash(&claim, Service::S3, &chunked), Err(Refusal::Unsupported(_))));
}

#[test]
fn ill_formed_claims_are_told_so() {
    let cases = [
        "",
        "Basic abc",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a/20150830/r/sagemaker/aws4_request, SignedHeaders=host",
        "AWS4-HMAC-SHA256 Credential=a/b/c, SignedHeaders=host, Signature=0",
        "AWS4-HMAC-SHA256 Credential=a/20150830/r/sagemaker/aws4_request, SignedHeaders=x-amz-date, Signature=0",
        "AWS4-HMAC-SHA256 Credential=a/é/r/sagemaker/aws4_request, SignedHeaders=host, Signature=0",
    ];
    for text in cases {
        let mut put = call(Method::PUT, "/", &[("x-amz-date", TIME)], "");
        put.headers.insert(AUTHORIZATION, HeaderValue::from_bytes(text.as_bytes()).expect("a value"));
        assert!(matches!(verify(&keys(), Service::SageMaker, &put, NOW), Err(Refusal::Incomplete(_))), "{text:?}");
    }
    let authorization =
        "AWS4-HMAC-SHA256 Credential=a/20150830/r/sagemaker/aws4_request, SignedHeaders=host, Signature=0";
    for time in ["", "20150830", "2015083é123600Z", "+2015-08-30T12:36:00Z", "020150830T123600Z", "20150830T12360Z"] {
        let mut put = call(Method::PUT, "/", &[("authorization", authorization)], "");
        put.headers.insert("x-amz-date", HeaderValue::from_bytes(time.as_bytes()).expect("a value"));
        assert!(matches!(verify(&keys(), Service::SageMaker, &put, NOW), Err(Refusal::Incomplete(_))), "{time:?}");
    }
    let signed_url = "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a/2015083%C3%A9/r/s3/aws4_request\
                      &X-Amz-Date=2015083T1236000Z&X-Amz-Expires=60&X-Amz-SignedHeaders=host&X-Amz-Signature=0";
    let get = call(Method::GET, signed_url, &[("host", "h")], "");
    assert!(matches!(verify(&keys(), Service::S3, &get, NOW), Err(Refusal::Incomplete(_))));
    for text in ["", "0", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)] {
        assert_eq!(unhex(text), None, "{text:?}");
    }
}

#[test]
fn keys_are_read_and_never_shown() {
    assert_eq!(format!("{:?}", keys()), format!("{{{KEY:?}}}"));
    for text in ["", "# none", "hunter2", "ID hunter2 b", "I-D hunter2", "SAME hunter2\nSAME hunter2"] {
        let wrong = AccessKeys::parse(text).expect_err(text);
        assert!(!wrong.contains("hunter2"), "{wrong}");
    }
}

#[tokio::test]
async fn what_a_caller_sent_comes_back_as_text_in_xml() {
    for service in [Service::S3, Service::Sts] {
        let refusal = Refusal::Scope("not '<a>&'".to_owned());
        let body = axum::body::to_bytes(refusal.into_response(service).into_body(), usize::MAX).await.expect("a body");
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("<Message>not '&lt;a&gt;&amp;'</Message>"), "{text}");
    }
}
