//! A filter rule as typed. What it means (patterns, numbers, addresses) is checked by the filter's compiler, which is a
//! layer above; here only names and types of the keys are known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::EventName;

/// What a rule does with the events that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RuleAction {
    /// Report the event, whatever later rules say.
    Include,
    /// Drop the event; the drop is counted under the rule's id.
    Exclude,
    /// Merge like events of one process into counted `aggregate` events. Not for `exec`, `exit`, `fork` and
    /// `module_load`, which are never merged.
    Aggregate,
}

/// One filter rule. Rules stand in order, the first that matches decides, and an event that no rule matches is reported.
/// All criteria of a rule must hold; each is a list of which one entry must hold; an absent criterion holds always.
/// A criterion about something that the event does not have (a hash that is not known, a port of a unix socket) does not hold.
///
/// Patterns: a text without `*`, `?`, `[`, `{` and `\` must be equal. Else `*` stands for any characters but `/`, `**`
/// between slashes for any directories, `?` for one character but `/`, `[a-z]` for one of a set, `{a,b}` for either, and `\`
/// takes the meaning from the character behind it. `/usr/**` is everything below /usr.
///
/// Hashes hold only when their verdict is `verified`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// Name of the rule, unique; drops are counted under it. Letters, digits, `-`, `_` and `.`, at most 64.
    pub id: String,
    /// What it does.
    pub action: RuleAction,
    /// Event types that it applies to; absent: all that its criteria can match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event: Vec<EventName>,
    /// Compare paths, names and command lines without regard to the case of ASCII letters.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_case: bool,
    /// Path of the executable of the acting process: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_path: Vec<String>,
    /// MD5 of the executable: 32 hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_md5: Vec<String>,
    /// SHA-256 of the executable: 64 hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_sha256: Vec<String>,
    /// Path of the executable of the parent process: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parent_path: Vec<String>,
    /// The arguments of the acting process, joined by single spaces: regular expressions, found anywhere unless anchored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command_line: Vec<String>,
    /// Working directory of the acting process when it was executed: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub working_directory: Vec<String>,
    /// Real user of the acting process: names, ids or ranges of ids (`"root"`, `"1000"`, `"0-999"`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<String>,
    /// Effective user of the acting process, as `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub effective_user: Vec<String>,
    /// User who logged in, as `user`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub login_user: Vec<String>,
    /// Real group of the acting process: names, ids or ranges of ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<String>,
    /// Whether the acting process runs in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_container: Option<bool>,
    /// Id of the container of the acting process: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_id: Vec<String>,
    /// Name of the container of the acting process: patterns. Like image and pod it is whatever who started the container
    /// chose, and does not hold while it is not known yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_name: Vec<String>,
    /// Reference of the container's image (`docker.io/library/nginx:1.27`): patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_image: Vec<String>,
    /// Namespace of the pod that the acting process is in: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pod_namespace: Vec<String>,
    /// Runtime of the container: `docker`, `containerd`, `crio`, `podman`, `nspawn`, `lxc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub container_runtime: Vec<String>,
    /// Path of the cgroup of the acting process: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cgroup_path: Vec<String>,
    /// Mount namespace of the acting process: inode numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_namespace: Vec<u32>,
    /// Path of the file that was created, of the module that was loaded, or of the script that was executed: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_path: Vec<String>,
    /// MD5 of that file: 32 hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_md5: Vec<String>,
    /// SHA-256 of that file: 64 hexadecimal digits each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub file_sha256: Vec<String>,
    /// Name of the kernel module: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub module_name: Vec<String>,
    /// Who began the connection: `outbound` (this process) or `inbound`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub direction: Vec<String>,
    /// Transport protocol: `tcp`, `udp`, `udplite`, `icmp`, `icmpv6`, `sctp`, `dccp`, `mptcp`, `raw`, `unix`, or an IANA number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<String>,
    /// Address of the other end: addresses or networks (`"10.0.0.0/8"`, `"fe80::/10"`), `"loopback"`, or `"external"`
    /// (neither loopback, link-local, private, nor multicast). IPv4 in IPv6 counts as IPv4.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_ip: Vec<String>,
    /// Address of this host's end, as `remote_ip`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_ip: Vec<String>,
    /// Port of the other end: numbers or ranges (`"443"`, `"1024-65535"`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_port: Vec<String>,
    /// Port of this host's end, as `remote_port`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_port: Vec<String>,
    /// Name of the other end of a unix socket, abstract names with a leading `@`: patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unix_path: Vec<String>,
}

/// A file of rules, named by `filter.rules_file` or given to `sensor filter`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RulesFile {
    /// Filter rules, in order.
    pub rule: Vec<FilterRule>,
}
