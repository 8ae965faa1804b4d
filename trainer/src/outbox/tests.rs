use std::sync::Arc;

use engine::Reporter;
use proto::v1::Finished;

use super::*;

fn point(step: u64) -> MetricPoint {
    MetricPoint { step, samples: step, value: 1.0, time: 0 }
}

fn finished() -> Kind {
    Kind::Finished(Finished { summary_json: "{}".to_owned() })
}

#[test]
fn a_silent_worker_costs_metrics_but_no_time_and_no_sentence() {
    let outbox = Outbox::default();
    for step in 0..MAX_POINTS as u64 + 10 {
        outbox.metric("train/loss", point(step));
        outbox.progress(Live { step, ..Live::default() });
    }
    outbox.note("careful".to_owned());
    outbox.last_word(finished());
    outbox.last_word(Kind::Stopped(Finished::default()));
    let (kinds, last) = outbox.take(3);
    assert_eq!(last, Some(finished()), "the first last word counts");
    let [Kind::Notes(notes), Kind::Progress(progress), Kind::Metrics(metrics)] = &kinds[..] else {
        panic!("{kinds:?}")
    };
    assert_eq!(notes.notes, ["careful"]);
    assert_eq!(progress.step, MAX_POINTS as u64 + 9, "the newest progress");
    assert_eq!((metrics.dropped, metrics.series[0].rank), (10, 3));
    assert_eq!(metrics.series[0].points.len(), MAX_POINTS);
    assert_eq!(outbox.take(3), (vec![], None));
}

#[tokio::test]
async fn everything_is_sent_in_order_and_then_the_pump_ends() {
    let outbox = Arc::new(Outbox::default());
    let (sender, mut sent) = mpsc::channel(1);
    let pump = {
        let outbox = Arc::clone(&outbox);
        service::tasks::spawn(service::tasks::Kind::Finish, "pump", async move {
            outbox.pump(0, sender).await;
        })
    };
    outbox.event(Kind::Running(proto::v1::Empty {}));
    assert_eq!(sent.recv().await.unwrap().kind, Some(Kind::Running(proto::v1::Empty {})));
    outbox.metric("train/loss", point(1));
    outbox.last_word(finished());
    assert!(matches!(sent.recv().await.unwrap().kind, Some(Kind::Metrics(_))));
    assert_eq!(sent.recv().await.unwrap().kind, Some(finished()));
    assert!(sent.recv().await.is_none(), "closed");
    pump.await.unwrap();
}
