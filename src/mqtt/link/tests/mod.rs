//! Every guard of the link against a broker that does what no real one would, on loopback and in virtual time.
//!
//! Which test holds which trap of the library (or of brokers) shut:
//!
//! | Trap | Test |
//! |---|---|
//! | a table for 65,535 packets in flight; ids that collide and wedge | `odd::connect_says_what_keeps_the_traps_shut`, `order::answers_in_the_worst_order_wedge_nothing` |
//! | a peer that is dead, reads nothing, drips, never acknowledges | all of `dead` |
//! | no pause between attempts | `reconnect`'s own |
//! | a message above the limit comes again and again | `odd::a_message_above_the_limit_is_skipped_and_acknowledged_and_comes_once`, `odd::what_a_broker_dies_of_is_not_sent_a_third_time` |
//! | a lost session drops what was queued; events of an earlier connection | `order::what_an_earlier_connection_left_behind_is_not_seen`, `strange::a_session_that_nobody_asked_for_changes_nothing` |
//! | a full channel stops the loop; a flood starves what is to be said | `order::messages_that_are_not_taken_cost_themselves_only`, `strange::who_is_flooded_can_still_speak` |
//! | aliases lose the topic; QoS 2 loops | `odd::what_breaks_the_protocol_ends_the_connection_and_says_why` |
//! | refusals are only logged | `odd::refusals_of_subscriptions_and_messages_are_events`, `strange::each_code_of_an_acknowledgement_is_told_and_nobody_listening_is_no_refusal` |
//! | keep-alive of the broker: none, hours, shorter than ours | `odd::a_broker_that_asks_for_no_keep_alive_is_not_pinged_without_pause`, `odd::a_brokers_limits_are_known_and_kept`, `strange::a_shorter_keep_alive_of_the_broker_is_kept` |
//! | a short deadline for name, TCP, TLS and CONNACK together | `strange::a_black_hole_behind_connect_is_left_after_half_a_minute` |
//! | a session brings what is old; a new one sends the will of the one before | `session`, `crate::mqtt::link::session`' own |
//! | it connects again after DISCONNECT | `strange::after_goodbye_nobody_knocks_again` |
//! | which acknowledgement is whose | `order::answers_in_the_worst_order_wedge_nothing` |
//! | its own TLS | `secure` |
//! | brokers of MQTT 3.1.1 | `odd::a_broker_of_mqtt_3_1_1_is_spoken_to_in_its_own_words`, `strange`: the two last |

mod dead;
mod fake;
mod odd;
mod order;
mod secure;
mod session;
mod strange;
