//! What requests carry whatever they ask for, set on the builder of any operation: the SDK has a type of its own for each.

/// The bucket, who pays, and who must own it.
macro_rules! with_owner {
    ($settings:expr, $call:expr) => {
        $call
            .bucket(&$settings.bucket)
            .set_request_payer($settings.request_payer.clone())
            .set_expected_bucket_owner($settings.expected_owner.clone())
    };
}

/// That, and the customer's key that bytes are encrypted with.
macro_rules! with_key {
    ($settings:expr, $call:expr) => {
        super::fields::with_owner!($settings, $call)
            .set_sse_customer_algorithm($settings.sse_algorithm())
            .set_sse_customer_key($settings.sse_key.clone())
            .set_sse_customer_key_md5($settings.sse_key_md5.clone())
    };
}

/// That, and the same for what is copied from.
macro_rules! copying {
    ($settings:expr, $call:expr) => {
        super::fields::with_key!($settings, $call)
            .set_expected_source_bucket_owner($settings.expected_owner.clone())
            .set_copy_source_sse_customer_algorithm($settings.sse_algorithm())
            .set_copy_source_sse_customer_key($settings.sse_key.clone())
            .set_copy_source_sse_customer_key_md5($settings.sse_key_md5.clone())
    };
}

pub(super) use {copying, with_key, with_owner};
