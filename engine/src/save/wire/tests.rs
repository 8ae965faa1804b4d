use collectives::Communicator;

use super::{Error, broadcast, gather};
use crate::tests::ranks::with_ranks;

#[test]
fn messages_of_any_length_reach_everybody_in_rank_order() {
    let results = with_ranks(3, |communicator: &mut Communicator| {
        let rank = communicator.rank();
        let mine = "x".repeat(rank as usize * 1000);
        let all = gather(communicator, &mine).unwrap();
        let from_zero = (rank == 0).then(|| vec![1_u64, 2, 3]);
        (all, broadcast(communicator, from_zero.as_ref()).unwrap())
    });
    for (all, from_zero) in results {
        assert_eq!(all.iter().map(String::len).collect::<Vec<_>>(), [0, 1000, 2000]);
        assert_eq!(from_zero, [1, 2, 3]);
    }
}

#[test]
fn what_is_no_message_is_refused_with_its_rank() {
    let results = with_ranks(2, |communicator: &mut Communicator| {
        // Rank 1 speaks of something else than rank 0 expects.
        if communicator.rank() == 0 {
            gather(communicator, &7_u32).map(|_| ())
        } else {
            gather(communicator, &"seven".to_owned()).map(|_| ())
        }
    });
    assert!(matches!(results[0], Err(Error::Garbled { rank: 1, .. })), "{:?}", results[0]);
    assert!(matches!(results[1], Err(Error::Garbled { rank: 0, .. })), "{:?}", results[1]);
}
