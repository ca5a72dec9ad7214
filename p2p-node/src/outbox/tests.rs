//! The queue of a link: what goes first, what does not fit, how it ends.

use p2p_wire::{Frame, FrameCodec, NodeId};
use tokio_util::codec::Decoder;

use super::*;

const STALL: Duration = Duration::from_secs(10);
const ME: NodeId = NodeId::from_bytes([1; 32]);

fn frame(byte: u8, len: usize) -> Bytes {
    Bytes::from(vec![byte; len])
}

fn outbox(limit: usize) -> Outbox {
    Outbox::new(limit, Arc::new(Budget::new(1 << 30)), Arc::default())
}

fn push(outbox: &Outbox, byte: u8, len: usize) -> usize {
    let author = NodeId::from_bytes([byte; 32]);
    let id = EnvelopeId { author, run: 0, first: 0, count: 1 };
    outbox.push_message(Item { id, hops: 1, frame: frame(byte, len), followed: author == ME }).len()
}

#[tokio::test]
async fn control_goes_before_messages() {
    let outbox = outbox(1000);
    assert_eq!(push(&outbox, 1, 10), 0);
    outbox.push_control(frame(2, 10)).unwrap();
    let mut batch = Vec::new();
    assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
    assert_eq!(batch.iter().map(|f| f[0]).collect::<Vec<_>>(), [2, 1]);
}

/// What others make a node say may crowd out neither what must be said nor, by that, the link.
#[test]
fn what_can_be_spared_takes_half_of_the_queue_and_leaves_room_for_the_rest() {
    let outbox = outbox(1000);
    while outbox.push_spare(frame(1, 1000)) == Ok(()) {}
    assert_eq!(outbox.push_spare(frame(1, 1000)), Err(Full));
    assert_eq!(outbox.push_control(frame(2, CONTROL_BYTES / 2)), Ok(()));
}

#[test]
fn messages_that_do_not_fit_come_back_and_control_fits_still() {
    let outbox = outbox(1000);
    assert_eq!(push(&outbox, 1, 5000), 0);
    assert_eq!(push(&outbox, 1, 1), 1);
    assert_eq!(outbox.push_control(frame(1, 1)), Ok(()));
    assert_eq!(outbox.push_control(frame(1, CONTROL_BYTES)), Err(Full));
}

#[tokio::test]
async fn all_links_share_a_budget_and_give_back_what_leaves() {
    let budget = Arc::new(Budget::new(100));
    let [a, b] = [1, 2].map(|_| Outbox::new(1000, Arc::clone(&budget), Arc::default()));
    assert_eq!((push(&a, 1, 60), push(&b, 1, 60), budget.used()), (0, 1, 60));
    b.push_control(frame(2, 60)).unwrap();
    assert_eq!(budget.used(), 120, "control is not refused");
    a.next_batch(&mut Vec::new(), STALL).await;
    assert_eq!((push(&b, 1, 40), budget.used()), (0, 100));
    drop(b);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn what_a_closed_link_could_not_write_is_given_up_with_its_room() {
    let budget = Arc::new(Budget::new(100));
    let outbox = Outbox::new(1000, Arc::clone(&budget), Arc::default());
    push(&outbox, 1, 60);
    outbox.push_control(frame(2, 60)).unwrap();
    let wait = Duration::from_millis(1);
    assert!(timeout_at(Instant::now().into(), outbox.closed_for(wait)).await.is_err(), "it is open");
    let ((), ()) = tokio::join!(outbox.closed_for(wait), async { outbox.close() });
    outbox.discard();
    assert_eq!(budget.used(), 0);
    assert_eq!(outbox.next_batch(&mut Vec::new(), STALL).await, Next::End);
    drop(outbox);
    assert_eq!(budget.used(), 0, "it is given back once");
}

#[tokio::test]
async fn a_goodbye_goes_last() {
    let outbox = outbox(1000);
    push(&outbox, 1, 10);
    outbox.push_control(frame(2, 10)).unwrap();
    outbox.close_with(frame(3, 10));
    let (mut batch, mut order) = (Vec::new(), Vec::new());
    while outbox.next_batch(&mut batch, STALL).await == Next::Frames {
        order.extend(batch.drain(..).map(|f| f[0]));
    }
    assert_eq!(order, [2, 1, 3]);
}

#[tokio::test]
async fn who_waits_for_room_is_told() {
    let drained = Arc::new(Notify::new());
    let budget = Arc::new(Budget::new(1 << 30));
    let outbox = Outbox::new(MAX_FRAME_PAYLOAD + 1000, budget, Arc::clone(&drained));
    assert!(outbox.has_room(0));
    push(&outbox, 1, 1001);
    assert!(!outbox.has_room(0));
    outbox.next_batch(&mut Vec::new(), STALL).await;
    drained.notified().await;
    assert!(outbox.has_room(0));
}

#[tokio::test]
async fn what_is_queued_at_close_is_still_written() {
    let outbox = outbox(1000);
    push(&outbox, 1, 10);
    outbox.close();
    let mut batch = Vec::new();
    assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
    assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::End);
    assert_eq!(batch.len(), 1);
}

#[tokio::test]
async fn no_more_messages_go_than_the_other_side_handles_and_control_goes_on() {
    let outbox = outbox(1 << 20);
    for _ in 0..200 {
        assert_eq!(push(&outbox, 1, 1000), 0);
    }
    let (mut batch, mut marks) = (Vec::new(), Vec::new());
    let is_mark = |frame: &Bytes| frame.len() < 100;
    for _ in 0..2 {
        assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
    }
    marks.extend(batch.iter().filter(|frame| is_mark(frame)).cloned());
    assert!((16..=18).contains(&(batch.len() - marks.len())), "{} messages", batch.len());
    assert!(!marks.is_empty());
    batch.clear();
    let brief = Duration::from_millis(1);
    tokio::time::sleep(brief).await;
    assert_eq!(outbox.next_batch(&mut batch, brief).await, Next::Stalled);
    outbox.push_control(frame(2, 10)).unwrap();
    assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
    assert_eq!(batch.drain(..).map(|f| f[0]).collect::<Vec<_>>(), [2]);
    outbox.answered(7);
    assert_eq!(outbox.next_batch(&mut batch, brief).await, Next::Stalled, "nothing of that number was asked");
    let mut last = bytes::BytesMut::from(marks.pop().unwrap());
    let last = FrameCodec::<Packet>::new().decode(&mut last).unwrap();
    let Some(Frame::Known { message: Packet::Ping(number), .. }) = last else { panic!("{last:?}") };
    outbox.answered(number);
    assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
    outbox.close();
    while outbox.next_batch(&mut batch, STALL).await == Next::Frames {}
    let (marks, left): (Vec<_>, Vec<_>) = batch.iter().partition(|frame| is_mark(frame));
    assert!(left.len() + 18 >= 200 && !marks.is_empty(), "what is closed waits for nobody");
}

#[tokio::test]
async fn what_was_handled_is_known_while_others_and_later_ones_wait() {
    let outbox = outbox(1 << 20);
    push(&outbox, 1, 10);
    assert_eq!(outbox.handled(), [], "it waits");
    let mut batch = Vec::new();
    outbox.next_batch(&mut batch, STALL).await;
    outbox.ask();
    push(&outbox, 2, 20);
    outbox.next_batch(&mut batch, STALL).await;
    push(&outbox, 1, 30);
    outbox.next_batch(&mut batch, STALL).await;
    push(&outbox, 1, 40);
    assert_eq!(outbox.handled(), [], "it was taken");
    let mut mark = bytes::BytesMut::from(batch[1].clone());
    let mark = FrameCodec::<Packet>::new().decode(&mut mark).unwrap();
    let Some(Frame::Known { message: Packet::Ping(number), .. }) = mark else { panic!("{mark:?}") };
    outbox.answered(number);
    let first = EnvelopeId { author: ME, run: 0, first: 0, count: 1 };
    assert_eq!((outbox.handled(), outbox.handled()), (vec![first], vec![]), "once");
    assert_eq!(outbox.unhandled(), 90);
}

#[test]
fn of_more_than_are_followed_the_oldest_are_not_known_to_be_handled() {
    let mut follow = Follow::default();
    for first in 0..2_000 {
        follow.took(2 * first, EnvelopeId { author: ME, run: 0, first, count: 1 });
    }
    assert_eq!(follow.handled(2_100).len(), 1_051 - (2_000 - 1_024));
    assert_eq!(follow.handled(u64::MAX).len(), 2_000 - 1_051);
}

/// A neighbour pulls thousands of old ones right behind a new one.
#[tokio::test]
async fn what_nobody_follows_takes_no_room_of_what_somebody_does() {
    let outbox = outbox(1 << 20);
    let id = |first| EnvelopeId { author: ME, run: 0, first, count: 1 };
    for first in 0..5_000 {
        let followed = first == 7;
        outbox.push_message(Item { id: id(first), hops: 1, frame: frame(1, 100), followed });
    }
    let mut batch = Vec::new();
    while outbox.unhandled() > 0 {
        assert_eq!(outbox.next_batch(&mut batch, STALL).await, Next::Frames);
        for frame in batch.drain(..).filter(|frame| frame.len() < 100) {
            let frame = FrameCodec::<Packet>::new().decode(&mut bytes::BytesMut::from(frame)).unwrap();
            let Some(Frame::Known { message: Packet::Ping(number), .. }) = frame else { panic!("{frame:?}") };
            outbox.answered(number);
        }
        outbox.ask();
    }
    assert_eq!(outbox.handled(), [id(7)]);
}
