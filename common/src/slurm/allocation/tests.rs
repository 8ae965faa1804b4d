use super::*;

#[test]
fn a_name_is_read_as_it_was_written() {
    let name = AllocationName::new("co2-lstm-x7k2p9".parse().unwrap(), 2);
    assert_eq!(name.to_string(), "co2-lstm-x7k2p9.2");
    assert_eq!("co2-lstm-x7k2p9.2".parse(), Ok(name));
}

#[test]
fn other_texts_are_refused() {
    for text in ["", "job", "job.", ".1", "job.0", "job.01", "job.+1", "Job.1", "job.1\n", "a b.1"]
    {
        assert!(text.parse::<AllocationName>().is_err(), "{text:?}");
    }
}
