use std::sync::Arc;

use super::plan;
use crate::report::Report;
use crate::tests::ranks::Heard;
use crate::tests::spec;

#[test]
fn a_job_that_needs_more_than_is_free_says_so_before_it_allocates() {
    let said = |hidden| {
        let heard = Arc::new(Heard::default());
        let report = Report::new(heard.clone(), true, 1);
        let job = spec::job().with(|spec| spec::recurrent(spec).hidden_size = hidden).build();
        plan(&job, 1, crate::Device::CPU, &report).unwrap();
        let notes = heard.notes.lock().unwrap();
        notes.iter().any(|note| note.contains("a rank will need about") && note.contains("free"))
    };
    // 64 GiB of parameters, and 8 KiB.
    assert!(said(65_536));
    assert!(!said(8));
}
