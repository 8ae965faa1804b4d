use super::*;

#[test]
fn a_name_is_read_as_it_was_written() {
    let name = AllocationName::of_job("co2-lstm-x7k2p9".parse().unwrap(), 2);
    assert_eq!(name.to_string(), "co2-lstm-x7k2p9.2");
    assert_eq!("co2-lstm-x7k2p9.2".parse(), Ok(name));
    let name = AllocationName::of_pool("small".parse().unwrap(), 3);
    assert_eq!(name.to_string(), "pool@small.3");
    assert_eq!("pool@small.3".parse(), Ok(name));
}

#[test]
fn other_texts_are_refused() {
    let texts = ["", "job", "job.", ".1", "job.0", "job.01", "job.+1", "Job.1", "job.1\n", "a b.1"];
    let of_pools = ["pool@.1", "pool@A.1", "pool@a.0", "pool@a", "pool@a/b.1", "a@b.1"];
    for text in texts.into_iter().chain(of_pools) {
        assert!(text.parse::<AllocationName>().is_err(), "{text:?}");
    }
}
