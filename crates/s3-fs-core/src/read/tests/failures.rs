//! What readers are told when the store fails, or the object is another one.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use sluicefs_s3_client::testing::Content;
use sluicefs_s3_client::{self as s3};
use tokio::time::Instant;

use super::bucket::{Net, without_etag};
use super::*;
use crate::error::ErrorKind;

fn transient() -> s3::Error {
    s3::Error::new(s3::ErrorKind::Transient, "get").with_key(KEY)
}

#[tokio::test(start_paused = true)]
async fn an_error_is_shared_and_remembered_for_a_second() {
    let slow = Net { first_byte: Duration::from_secs(20), bytes_per_second: 0 };
    let rig = Rig::new(ProbeBucket::new(64 * MIB).with_net(slow));
    rig.bucket.fail_next(transient());
    let readers = (0..10).map(|_| rig.fails(40 * MIB, 41 * MIB));
    for outcome in join_all(readers).await {
        assert_eq!(outcome.kind(), ErrorKind::Io);
    }
    assert_eq!(rig.bucket.gets(), 1);

    // The kernel asks again at once, page by page.
    let start = Instant::now();
    for page in 0..32 {
        let at = 40 * MIB + page * 4096;
        rig.fails(at, at + 4096).await;
    }
    assert_eq!((start.elapsed(), rig.bucket.gets()), (Duration::ZERO, 1));

    tokio::time::sleep(Duration::from_millis(1001)).await;
    rig.check(40 * MIB, 41 * MIB).await;
    assert_eq!(rig.bucket.ranges()[1], rig.bucket.ranges()[0]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_ahead_of_the_reader_is_not_remembered() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    rig.check(0, 128 * KIB).await;
    settle().await;
    rig.bucket.fail_next(transient());
    rig.check(128 * KIB, 640 * KIB).await;
    settle().await;
    assert_eq!(rig.bucket.ranges()[1].start, MIB);
    rig.check(MIB, 2 * MIB).await;
    assert_eq!(rig.bucket.ranges().iter().filter(|range| range.start == MIB).count(), 2, "asked again");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_fails_only_what_is_missing() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    rig.bucket.edit_replies(|reply| {
        use futures::StreamExt;
        let body = std::mem::replace(&mut reply.body, Box::pin(futures::stream::empty()));
        let error = s3::Error::new(s3::ErrorKind::Transient, "get").with_message("reset");
        reply.body = Box::pin(body.take(5).chain(futures::stream::iter([Err(error)])));
    });
    rig.check(0, 128 * KIB).await;
    rig.check(128 * KIB, 256 * KIB).await;
    let error = rig.fails(256 * KIB, 640 * KIB).await;
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[tokio::test(start_paused = true)]
async fn wrong_bodies_are_never_handed_out() {
    let edits: [fn(&mut s3::GetReply); 3] = [
        |reply| reply.range.start += 1,
        |reply| reply.body = Box::pin(futures::stream::iter([Ok(Bytes::from_static(b"short"))])),
        |reply| reply.body = Box::pin(futures::stream::iter([Ok(Bytes::from(vec![0; 2 << 20]))])),
    ];
    for edit in edits {
        for size in [100 * KIB, 64 * MIB] {
            let rig = Rig::new(ProbeBucket::new(size));
            rig.bucket.edit_replies(edit);
            let error = rig.fails(0, 4096).await;
            assert_eq!(error.kind(), ErrorKind::Io);
            assert_eq!(error.store_error().map(s3::Error::kind), Some(s3::ErrorKind::Corrupt));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_object_is_handed_out_only_after_its_end_was_verified() {
    let rig = Rig::new(ProbeBucket::new(MIB));
    rig.bucket.edit_replies(|reply| {
        use futures::StreamExt;
        let body = std::mem::replace(&mut reply.body, Box::pin(futures::stream::empty()));
        let error = s3::Error::new(s3::ErrorKind::Corrupt, "get").with_message("checksum");
        reply.body = Box::pin(body.chain(futures::stream::iter([Err(error)])));
    });
    let error = rig.fails(0, 4096).await;
    assert_eq!(error.store_error().map(s3::Error::kind), Some(s3::ErrorKind::Corrupt));
    assert_eq!(rig.engine.cache.ready_blocks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_changed_object_is_stale() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    rig.check(0, 4096).await;
    rig.bucket.inner.put(KEY, Content::Pattern { seed: 2, len: 64 * MIB });
    let error = rig.fails(40 * MIB, 41 * MIB).await;
    assert_eq!(error.kind(), ErrorKind::Stale);
    // What was read of the old version is still of one piece.
    rig.check(0, 4096).await;

    rig.bucket.inner.remove(KEY);
    let error = rig.fails(50 * MIB, 51 * MIB).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn the_first_reply_pins_the_etag_that_the_listing_lacked() {
    let rig = Rig::with_etag(ProbeBucket::new(64 * MIB), ReadConfig::default(), None);
    assert_eq!(rig.version.etag(), None);
    rig.check(0, 4096).await;
    assert_eq!(rig.version.etag(), rig.bucket.etag().as_ref());
    rig.check(40 * MIB, 41 * MIB).await;
    assert_eq!(rig.bucket.requests()[1].if_match, rig.bucket.etag());

    rig.bucket.inner.put(KEY, Content::Pattern { seed: 2, len: 64 * MIB });
    let error = rig.fails(50 * MIB, 51 * MIB).await;
    assert_eq!(error.kind(), ErrorKind::Stale);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ignores_if_match_cannot_mix_versions() {
    let etag = ETag::new("\"listed\"");
    let bucket = ProbeBucket::new(64 * MIB);
    bucket.inner.put_with(KEY, Content::Pattern { seed: 1, len: 64 * MIB }, |head| {
        head.meta.etag = Some(ETag::new("\"listed\""));
    });
    let rig = Rig::with_etag(bucket, ReadConfig::default(), Some(etag));
    rig.bucket.edit_replies(|reply| reply.meta.etag = Some(ETag::new("\"other\"")));
    assert_eq!(rig.fails(0, 4096).await.kind(), ErrorKind::Stale);
    rig.bucket.edit_replies(|reply| reply.meta.size += 1);
    assert_eq!(rig.fails(9 * MIB, 10 * MIB).await.kind(), ErrorKind::Stale);
    rig.bucket.edit_replies(|reply| without_etag(&mut reply.meta));
    rig.check(20 * MIB, 21 * MIB).await;
}

#[tokio::test(start_paused = true)]
async fn kinds_reach_the_reader() {
    for (kind, expected) in [
        (s3::ErrorKind::Forbidden, ErrorKind::AccessDenied),
        (s3::ErrorKind::Archived, ErrorKind::Archived),
        (s3::ErrorKind::NotFound, ErrorKind::NotFound),
        (s3::ErrorKind::PreconditionFailed, ErrorKind::Stale),
        (s3::ErrorKind::Transient, ErrorKind::Io),
    ] {
        let rig = Rig::new(ProbeBucket::new(64 * MIB));
        rig.bucket.fail_next(s3::Error::new(kind, "get"));
        assert_eq!(rig.fails(9 * MIB, 10 * MIB).await.kind(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_always_panics_ends_in_an_error() {
    let rig = Rig::new(ProbeBucket::new(64 * MIB));
    rig.bucket.edit_replies(|_| panic!("a bug in a bucket"));
    let error = rig.fails(9 * MIB, 10 * MIB).await;
    assert_eq!((error.kind(), rig.bucket.gets()), (ErrorKind::Io, 3));
    let _still_usable = Arc::clone(&rig.object);
}
