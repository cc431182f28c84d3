//! The messages and services of CSI 1.12.0, generated: see `proto/README.md` of this crate for how.
//!
//! Messages that carry secrets have no `Debug` by purpose, so that no log can print them.
#![allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::missing_errors_doc,
    missing_docs,
    missing_debug_implementations,
    unused_qualifications,
    reason = "generated code follows its generator's style"
)]

include!("proto/csi.v1.rs");
