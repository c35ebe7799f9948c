"""A plug-in that knows nothing of policies: a bandit, its player, two recipes, an audit, a response and a claim."""

from trueline.core.registry import Entry

HERE = "trueline_bandit"
LAW = "tests/plugin/test_plugin.py::test_harm_of_the_constrained_player_is_at_its_limit"
ENV = "tests/plugin/test_plugin.py::test_the_world_pays_what_its_arms_promise"
CYCLE = "tests/plugin/test_plugin.py::test_a_cycle_turns_a_failed_audit_into_a_constrained_player"

ENTRIES = (
    Entry("env", "Bandit-v0", f"{HERE}.arms:make", "pull one of three arms", level="property", test=ENV),
    Entry("recipe", "bandit", f"{HERE}.recipe:FREE", "softmax bandit, exact gradient", level="exact", test=LAW),
    Entry("recipe", "bandit-lag", f"{HERE}.recipe:CONSTRAINED", "the same under a limit", level="exact", test=LAW),
    Entry("subject", "bandit", f"{HERE}.player:load", "a player of arms", level="property", test=CYCLE),
    Entry("audit", "ethicality/harm", f"{HERE}.audit:Harm", "how often a pull harms", level="property", test=CYCLE),
    Entry("response", "bandit/constrain", f"{HERE}.response:LimitHarm", "limit it", level="property", test=CYCLE),
    Entry("claim", "bandit/best-arm", f"{HERE}.claim:BEST_ARM", "the best arm is found", level="property", test=CYCLE),
)
