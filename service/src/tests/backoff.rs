use std::time::Duration;

use crate::backoff::Backoff;

#[test]
fn waits_double_up_to_the_maximum_and_start_again_after_success() {
    let ms = Duration::from_millis;
    let mut backoff = Backoff::new(ms(100), ms(500));
    let waits: Vec<_> = (0..4).map(|_| backoff.next_wait(1.0)).collect();
    assert_eq!(waits, [ms(100), ms(200), ms(400), ms(500)]);
    assert_eq!(backoff.next_wait(0.0), ms(250), "chance only halves");
    assert_eq!(backoff.tries(), 5);
    backoff.reset();
    assert_eq!(backoff.next_wait(1.0), ms(100));
}

#[test]
fn a_thousand_tries_do_not_overflow() {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for _ in 0..1000 {
        assert!(backoff.next_wait(1.0) <= Duration::from_secs(5));
    }
}
