//! The machine's table, row by row, and ten thousand random evenings.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod house;

use house::House;
use rand::{Rng as _, SeedableRng as _};
use sc_calls::*;

const ALICE: usize = 0;
const BOB: usize = 1;

fn ended(cause: EndCause) -> Option<Phase> {
    Some(Phase::Ended(cause))
}

/// A call between two devices, with sound.
fn talking() -> House {
    let mut h = House::new(1, 1);
    h.call(ALICE);
    h.settle();
    h.input(BOB, Input::Accept { video: false });
    h.settle();
    assert_eq!((h.phase(ALICE), h.phase(BOB)), (Some(Phase::Active), Some(Phase::Active)));
    h
}

#[test]
fn a_call_rings_is_taken_and_ends_on_both_sides() {
    let mut h = House::new(1, 1);
    h.call(ALICE);
    assert_eq!(h.phase(ALICE), Some(Phase::Preparing));
    h.settle();
    assert_eq!((h.phase(ALICE), h.phase(BOB)), (Some(Phase::Calling), Some(Phase::Incoming)));
    h.input(BOB, Input::Accept { video: false });
    h.settle();
    h.assert_settled();
    h.input(BOB, Input::HangUp);
    h.settle();
    assert_eq!((h.phase(ALICE), h.phase(BOB)), (ended(EndCause::HungUp), ended(EndCause::HungUp)));
    h.pass(10_000);
    h.assert_settled();
}

#[test]
fn hanging_up_in_every_phase_frees_both_sides() {
    // (what has happened before, who hangs up, what each of them sees)
    type Before = fn(&mut House);
    let preparing: Before = |_| {};
    let calling: Before = |h| h.settle();
    let answering: Before = |h| {
        h.settle();
        h.input(BOB, Input::Accept { video: false });
    };
    let connecting: Before = |h| {
        h.settle();
        h.input(BOB, Input::Accept { video: false });
        h.hear(BOB);
    };
    let active: Before = |h| {
        h.settle();
        h.input(BOB, Input::Accept { video: false });
        h.settle();
    };
    let reconnecting: Before = |h| {
        h.settle();
        h.input(BOB, Input::Accept { video: false });
        h.settle();
        let call = h.devices[ALICE].machine.state().unwrap().call;
        for d in [ALICE, BOB] {
            h.input(d, Input::Media(MediaEvent::Disconnected { call }));
            assert_eq!(h.phase(d), Some(Phase::Reconnecting));
        }
    };
    let hung = ended(EndCause::HungUp);
    let cases: [(Before, usize, Option<Phase>, Option<Phase>); 10] = [
        (preparing, ALICE, ended(EndCause::Cancelled), None),
        (calling, ALICE, ended(EndCause::Cancelled), ended(EndCause::Missed)),
        (calling, BOB, ended(EndCause::Declined), ended(EndCause::Declined)),
        (answering, BOB, ended(EndCause::Declined), hung),
        (answering, ALICE, ended(EndCause::Cancelled), ended(EndCause::Missed)),
        (connecting, BOB, hung, hung),
        (active, ALICE, hung, hung),
        (active, BOB, hung, hung),
        (reconnecting, ALICE, hung, hung),
        (reconnecting, BOB, hung, hung),
    ];
    for (i, (before, who, alice, bob)) in cases.into_iter().enumerate() {
        let mut h = House::new(1, 1);
        h.call(ALICE);
        before(&mut h);
        h.input(who, Input::HangUp);
        h.settle();
        assert_eq!((h.phase(ALICE), h.phase(BOB)), (alice, bob), "case {i}");
        h.pass(60_000);
        h.assert_settled();
    }
}

#[test]
fn nobody_answers_and_both_are_told() {
    let mut h = House::new(1, 1);
    h.call(ALICE);
    h.settle();
    h.pass(RING_MS);
    assert_eq!((h.phase(ALICE), h.phase(BOB)), (ended(EndCause::NoAnswer), ended(EndCause::Missed)));
}

#[test]
fn every_device_rings_and_stops_when_one_answers_or_declines() {
    for accept in [true, false] {
        let mut h = House::new(1, 3);
        h.call(ALICE);
        h.settle();
        assert!((1..4).all(|d| h.phase(d) == Some(Phase::Incoming)));
        h.input(2, if accept { Input::Accept { video: false } } else { Input::HangUp });
        h.settle();
        assert_eq!((h.phase(1), h.phase(3)), (ended(EndCause::Elsewhere), ended(EndCause::Elsewhere)));
        assert_eq!(h.phase(2), if accept { Some(Phase::Active) } else { ended(EndCause::Declined) });
        h.pass(10_000);
        h.assert_settled();
    }
}

#[test]
fn of_two_answers_the_first_in_the_log_has_the_call() {
    let mut h = House::new(1, 2);
    h.call(ALICE);
    h.settle();
    for d in [1, 2] {
        h.input(d, Input::Accept { video: false });
        while h.hear(d) {}
    }
    h.send(2);
    h.send(1);
    h.settle();
    assert_eq!(h.phase(2), Some(Phase::Active));
    assert_eq!(h.phase(1), ended(EndCause::Elsewhere));
    h.pass(10_000);
    h.assert_settled();
}

#[test]
fn a_decline_after_an_answer_changes_nothing_and_before_it_ends_the_call() {
    for decline_first in [true, false] {
        let mut h = House::new(1, 2);
        h.call(ALICE);
        h.settle();
        h.input(1, Input::Accept { video: false });
        while h.hear(1) {}
        h.input(2, Input::HangUp);
        let order = if decline_first { [2, 1] } else { [1, 2] };
        for d in order {
            while h.send(d) {}
        }
        h.pass(40_000);
        assert_eq!(h.phase(1), if decline_first { None } else { Some(Phase::Active) });
        h.assert_settled();
    }
}

#[test]
fn two_who_call_each_other_at_once_talk() {
    // Whoever is earlier in the log, and whether the other one had sent its offer or not.
    for order in [[ALICE, BOB], [BOB, ALICE]] {
        let mut h = House::new(1, 1);
        let first = h.call(order[0]);
        h.call(order[1]);
        for d in order {
            while h.hear(d) {}
        }
        assert!(h.send(order[0]) && h.send(order[1]));
        h.settle();
        h.assert_settled();
        assert_eq!(h.devices[ALICE].machine.state().unwrap().call, first);
    }
    let mut h = House::new(1, 1);
    h.call(ALICE);
    h.settle();
    // Bob's device has not heard of it yet when he calls.
    let mut h = House { devices: h.devices, log: h.log, ..House::new(1, 1) };
    h.call(BOB);
    h.pass(5_000);
    assert_eq!(h.phase(ALICE), Some(Phase::Calling), "a call that rings is not called over");
}

#[test]
fn a_second_caller_hears_that_the_line_is_busy() {
    let mut h = talking();
    let (conversation, call, user) =
        (sc_protocol::ConversationId::generate(), sc_protocol::CallId::generate(), sc_protocol::UserId::generate());
    let device = sc_protocol::DeviceId::generate();
    let signal = Signal::Offer { call, sdp: "v=0".into(), video: false };
    h.input(BOB, Input::Signal(Received { conversation, user, device, seq: 9, age_ms: 0, signal }));
    assert_eq!(h.phase(BOB), Some(Phase::Active));
    assert_eq!(h.devices[BOB].outbox.pop_front(), Some((conversation, Signal::End { call, reason: EndReason::Busy })));
}

#[test]
fn a_stale_offer_never_rings_and_a_late_one_rings_for_the_rest() {
    for (age, rings) in [(RING_MS, false), (RING_MS - 1_000, true)] {
        let mut h = House::new(1, 1);
        h.call(ALICE);
        h.hear(ALICE);
        h.send(ALICE);
        h.now += age;
        h.deliver(BOB);
        assert_eq!(h.phase(BOB).is_some(), rings);
        if rings {
            h.now += 1_000;
            h.input(BOB, Input::Tick);
            assert_eq!(h.phase(BOB), ended(EndCause::Missed));
        }
    }
}

#[test]
fn an_answer_that_was_long_on_its_way_is_no_answer_but_stops_the_other_devices() {
    let mut h = House::new(1, 2);
    h.call(ALICE);
    h.settle();
    h.input(BOB, Input::Accept { video: false });
    while h.hear(BOB) {}
    h.send(BOB);
    h.now += STALE_MS;
    h.deliver(ALICE);
    h.deliver(ALICE);
    assert_eq!(h.phase(ALICE), Some(Phase::Calling));
    h.deliver(2);
    assert_eq!(h.phase(2), ended(EndCause::Elsewhere));
}

#[test]
fn a_broken_path_is_held_until_there_is_a_new_one() {
    for (breaks, changed) in [(ALICE, false), (BOB, true)] {
        let mut h = talking();
        let call = h.devices[ALICE].machine.state().unwrap().call;
        let event = if changed { MediaEvent::NetworkChanged { call } } else { MediaEvent::Disconnected { call } };
        h.input(breaks, Input::Media(event));
        assert_eq!(h.phase(breaks), Some(Phase::Reconnecting));
        assert_eq!(
            h.devices[breaks].commands.iter().rev().find(|c| matches!(c, MediaCommand::Hold { .. })),
            Some(&MediaCommand::Hold { call, held: true })
        );
        h.settle();
        assert_eq!(h.phase(breaks) == Some(Phase::Active), changed, "what may come back by itself is waited for");
        h.pass(6_000);
        h.assert_settled();
        let restarts = h.log.iter().filter(|e| matches!(e.signal, Signal::Restart { .. })).count();
        assert_eq!(restarts, 1);
    }
}

#[test]
fn the_side_that_is_called_asks_for_a_new_path_first() {
    for (breaks, after) in [(ALICE, 6_000), (BOB, 500)] {
        let mut h = talking();
        let call = h.devices[ALICE].machine.state().unwrap().call;
        let restarts = |h: &House| h.log.iter().filter(|e| matches!(e.signal, Signal::Restart { .. })).count();
        h.input(breaks, Input::Media(MediaEvent::Disconnected { call }));
        h.pass(after - 1);
        h.settle();
        assert_eq!(restarts(&h), 0, "it may come back by itself");
        h.pass(1);
        h.settle();
        assert_eq!(restarts(&h), 1);
        assert_eq!(h.phase(breaks), Some(Phase::Active));
    }
}

#[test]
fn what_the_media_cannot_do_ends_the_call_with_its_cause() {
    let mut h = House::new(1, 1);
    let call = h.call(ALICE);
    let no = MediaEvent::Failed { call, cause: FailCause::NoMicrophone };
    h.input(ALICE, Input::Media(no.clone()));
    assert_eq!(h.phase(ALICE), ended(EndCause::Failed(FailCause::NoMicrophone)));
    h.settle();
    assert_eq!(h.phase(BOB), None, "nobody rang");

    let mut h = talking();
    let call = h.devices[ALICE].machine.state().unwrap().call;
    h.input(ALICE, Input::Media(MediaEvent::Failed { call, cause: FailCause::ConnectionLost }));
    h.settle();
    assert_eq!(h.phase(BOB), ended(EndCause::Failed(FailCause::ConnectionLost)));
}

#[test]
fn who_is_not_in_the_call_can_change_nothing_about_it() {
    let mut h = talking();
    let state = h.devices[BOB].machine.state().unwrap();
    let stranger = sc_protocol::DeviceId::generate();
    for signal in [
        Signal::End { call: state.call, reason: EndReason::HungUp },
        Signal::Restart { call: state.call, sdp: "evil".into() },
        Signal::Restarted { call: state.call, sdp: "evil".into() },
        Signal::Candidates { call: state.call, list: vec!["evil".into()] },
        Signal::Answer { call: state.call, sdp: "evil".into() },
    ] {
        let before = h.devices[BOB].commands.len();
        let user = h.devices[ALICE].user;
        h.input(BOB, Input::Signal(Received { conversation: state.conversation, user, device: stranger, seq: 99, age_ms: 0, signal }));
        assert_eq!(h.phase(BOB), Some(Phase::Active));
        assert_eq!(h.devices[BOB].commands.len(), before);
    }
}

#[test]
fn muting_is_told_to_the_media_once_and_only_in_a_call() {
    let mut h = talking();
    let call = h.devices[ALICE].machine.state().unwrap().call;
    for muted in [true, true, false] {
        h.input(ALICE, Input::Mute(muted));
    }
    let told: Vec<_> = h.devices[ALICE].commands.iter().filter(|c| matches!(c, MediaCommand::Mute { .. })).cloned().collect();
    assert_eq!(told, [MediaCommand::Mute { call, muted: true }, MediaCommand::Mute { call, muted: false }]);
    let mut h = House::new(1, 1);
    h.input(ALICE, Input::Mute(true));
    assert!(h.devices[ALICE].commands.is_empty());
}

#[test]
fn one_is_seen_only_as_long_as_one_wants_to_be() {
    let mut h = House::new(1, 1);
    let call = h.video(ALICE);
    let camera = Some((call, Shown::Camera));
    assert_eq!(h.devices[ALICE].shows, camera, "the caller sees themselves at once");
    h.settle();
    let rings = h.devices[BOB].machine.state().unwrap();
    assert!(rings.video && !rings.camera);
    h.input(BOB, Input::Camera(true));
    h.input(BOB, Input::Screen(true));
    assert_eq!(h.devices[BOB].shows, None, "nobody is seen before they take the call");
    h.input(BOB, Input::Accept { video: false });
    h.settle();
    assert_eq!((h.phase(BOB), h.devices[BOB].shows), (Some(Phase::Active), None));
    h.input(BOB, Input::Camera(true));
    h.input(ALICE, Input::Camera(false));
    assert_eq!((h.devices[ALICE].shows, h.devices[BOB].shows), (None, camera));
    h.input(BOB, Input::Media(MediaEvent::NoPicture { call }));
    assert!(!h.devices[BOB].machine.state().unwrap().camera, "there is none: the button says so");
    h.input(BOB, Input::Camera(true));
    h.input(BOB, Input::HangUp);
    h.settle();
    assert_eq!((h.devices[ALICE].shows, h.devices[BOB].shows), (None, None));
    h.input(BOB, Input::Camera(true));
    assert_eq!(h.devices[BOB].shows, None);
}

#[test]
fn a_screen_takes_the_place_of_the_camera_and_gives_it_back() {
    let mut h = House::new(1, 1);
    let call = h.video(ALICE);
    h.settle();
    h.input(BOB, Input::Accept { video: false });
    h.settle();
    let (camera, screen) = (Some((call, Shown::Camera)), Some((call, Shown::Screen)));
    h.input(ALICE, Input::Screen(true));
    assert_eq!(h.devices[ALICE].shows, screen);
    h.input(ALICE, Input::Camera(false));
    h.input(ALICE, Input::Camera(true));
    assert_eq!(h.devices[ALICE].shows, screen, "the camera waits");
    h.devices[ALICE].commands.clear();
    h.input(ALICE, Input::Screen(true));
    assert_eq!(h.devices[ALICE].commands, [MediaCommand::Show { call, what: Some(Shown::Screen) }], "it may be another one");
    h.input(ALICE, Input::Screen(false));
    assert_eq!(h.devices[ALICE].shows, camera);
    h.input(ALICE, Input::Screen(true));
    h.input(ALICE, Input::Media(MediaEvent::NoPicture { call }));
    let state = h.devices[ALICE].machine.state().unwrap();
    assert_eq!((h.devices[ALICE].shows, state.screen, state.camera), (camera, false, true), "the window was closed");
    h.input(ALICE, Input::Screen(true));
    h.input(BOB, Input::HangUp);
    h.settle();
    assert_eq!(h.devices[ALICE].shows, None);
}

/// One random evening: people with several devices call, take, decline, hang up, lose their path; signals are late.
fn evening(seed: u64) {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let mut h = House::new(rng.gen_range(1..4), rng.gen_range(1..4));
    let n = h.devices.len();
    for _ in 0..rng.gen_range(10..200) {
        let d = rng.gen_range(0..n);
        match rng.gen_range(0..20) {
            0..5 => drop(h.deliver(d)),
            5..9 => drop(h.send(d)),
            9..13 => drop(h.hear(d)),
            13 => drop(if rng.r#gen() { h.video(d) } else { h.call(d) }),
            14..16 => h.input(d, Input::Accept { video: rng.r#gen() }),
            16 => h.input(d, Input::HangUp),
            17 => {
                if let Some(s) = h.devices[d].machine.state() {
                    let call = s.call;
                    let events = [
                        MediaEvent::Disconnected { call },
                        MediaEvent::NetworkChanged { call },
                        MediaEvent::Candidates { call, list: vec!["c".into()] },
                    ];
                    h.input(d, Input::Media(events[rng.gen_range(0..3)].clone()));
                }
            }
            18 if rng.r#gen() => h.input(d, if rng.r#gen() { Input::Camera(rng.r#gen()) } else { Input::Screen(rng.r#gen()) }),
            18 => h.input(d, Input::Mute(rng.r#gen())),
            _ => {
                h.now += rng.gen_range(0..8_000);
                for d in 0..n {
                    h.input(d, Input::Tick);
                }
            }
        }
    }
    h.pass(300_000);
    h.assert_settled();
}

#[test]
fn after_ten_thousand_random_evenings_nobody_hangs() {
    for seed in 0..10_000 {
        if let Err(cause) = std::panic::catch_unwind(|| evening(seed)) {
            let cause = cause.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("seed {seed}: {cause}");
        }
    }
}
