//! Laws under random inputs, hostile ones included.

mod actions;
#[path = "../net/mod.rs"]
mod net;
mod world;

use actions::{Action, actions, actions_outside, any_config, tight};
use p2p_gossip::{Config, LogStore};
use proptest::prelude::*;
use world::World;

/// Whatever happened, at the end nothing waits and nothing came twice.
fn comes_to_rest(config: Config, actions: Vec<Action>) {
    let mut world = World::new(config);
    for action in actions {
        world.act(action);
    }
    world.settle();
    world.assert_at_most_once();
    let stats = world.core.stats();
    assert_eq!((stats.held, stats.open_checks), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_input_panics_limits_hold_and_nothing_comes_twice(
        actions in proptest::collection::vec(actions(), 0..250),
    ) {
        comes_to_rest(tight(), actions);
    }

    /// As in a node with a log on disk, which is slow to answer, has limits of its own and outlives the process.
    #[test]
    fn with_a_log_outside_nothing_panics_or_comes_twice_across_restarts(
        actions in proptest::collection::vec(actions_outside(), 0..250),
    ) {
        comes_to_rest(Config { log_store: LogStore::Outside, ..tight() }, actions);
    }

    #[test]
    fn no_config_makes_it_panic_or_deliver_twice(
        config in any_config(),
        actions in proptest::collection::vec(actions(), 0..150),
    ) {
        let mut world = World::new(config);
        for action in actions {
            world.act(action);
        }
        world.assert_at_most_once();
    }

    /// With room for all, whatever an honest neighbour pushed is delivered, whatever others pushed before or
    /// after.
    #[test]
    fn nothing_that_an_honest_neighbour_sent_is_lost(
        actions in proptest::collection::vec(actions(), 0..150),
    ) {
        let mut world = World::new(Config::default());
        for action in actions {
            world.act(action);
        }
        world.settle();
        world.assert_at_most_once();
        prop_assert_eq!(world.core.stats().missing, 0);
        for (peer, id) in world.honest.difference(&world.lied) {
            if id.author == 0 || !id.is_valid() {
                continue;
            }
            for seq in id.seqs() {
                prop_assert!(
                    world.delivered.contains_key(&(id.author, seq)),
                    "seq {} of {:?}, sent by {}", seq, id, peer,
                );
            }
        }
    }
}
