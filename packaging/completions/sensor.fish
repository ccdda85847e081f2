# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_sensor_global_optspecs
    string join \n config= log-level= events= scope-cgroup= duration= backend= stats ebpf-log= format= h/help V/version
end

function __fish_sensor_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_sensor_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_sensor_using_subcommand
    set -l cmd (__fish_sensor_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c sensor -n "__fish_sensor_needs_command" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_needs_command" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_needs_command" -l events -d 'Event types to report, separated by commas' -r
complete -c sensor -n "__fish_sensor_needs_command" -l scope-cgroup -d 'Record, read and show nothing outside this cgroup (a directory of cgroup v2)' -r -F
complete -c sensor -n "__fish_sensor_needs_command" -l duration -d 'Stop after this time, such as 10s' -r
complete -c sensor -n "__fish_sensor_needs_command" -l backend -d 'Kind of hooks to use: auto takes the best that this kernel allows, per event type' -r -f -a "auto\t'The best that this kernel allows, chosen per event type by trial'
fentry\t'BPF trampolines only'
kprobe\t'Kprobes only'
syscall-exit\t'The exit of system calls only'"
complete -c sensor -n "__fish_sensor_needs_command" -l ebpf-log -d 'Log what the eBPF programs log; needs the object that `cargo xtask build-ebpf --log` makes, which is looked for beside this program and in its build folder unless FILE names it' -r -F
complete -c sensor -n "__fish_sensor_needs_command" -l format -d 'How events are written: auto is pretty on a terminal, else json' -r -f -a "auto\t'`pretty` on a terminal, else `json`'
pretty\t'One line an event, for people'
json\t'One JSON object a line'
ecs\t'One JSON object a line, in the Elastic Common Schema'
ocsf\t'One JSON object a line, in the Open Cybersecurity Schema Framework'"
complete -c sensor -n "__fish_sensor_needs_command" -l stats -d 'Print rates and the ledger to standard error every few seconds'
complete -c sensor -n "__fish_sensor_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sensor -n "__fish_sensor_needs_command" -s V -l version -d 'Print version'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "run" -d 'Watch this host and report events (the default)'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "doctor" -d 'Tell what works on this host, which hook each event type would use, and what to do about the rest'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "status" -d 'Tell how the running sensor stands: rates, account, spool, sinks'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "reload" -d 'Have the running sensor read its filter rules again, all or nothing'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "config" -d 'Look at the configuration'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "filter" -d 'Look at the filter rules'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "record" -d 'Write the kernel\'s records to a file, to be replayed later'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "replay" -d 'Send recorded kernel records through the pipeline again; needs no privilege'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "decode" -d 'Print what stands in telemetry packets and in segments of the spool; needs no privilege'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "data-provision" -d 'Print which data leaves this host with the loaded configuration: every item, what for, what is withheld, where to, how long'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "install" -d 'Set this program up as a service of systemd, on hosts without a package of it: program, unit, configuration, folders'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "uninstall" -d 'Take away what `install` made; configuration, spool and events stay'
complete -c sensor -n "__fish_sensor_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand run" -l events -d 'Event types to report, separated by commas' -r
complete -c sensor -n "__fish_sensor_using_subcommand run" -l scope-cgroup -d 'Record, read and show nothing outside this cgroup (a directory of cgroup v2)' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand run" -l duration -d 'Stop after this time, such as 10s' -r
complete -c sensor -n "__fish_sensor_using_subcommand run" -l backend -d 'Kind of hooks to use: auto takes the best that this kernel allows, per event type' -r -f -a "auto\t'The best that this kernel allows, chosen per event type by trial'
fentry\t'BPF trampolines only'
kprobe\t'Kprobes only'
syscall-exit\t'The exit of system calls only'"
complete -c sensor -n "__fish_sensor_using_subcommand run" -l ebpf-log -d 'Log what the eBPF programs log; needs the object that `cargo xtask build-ebpf --log` makes, which is looked for beside this program and in its build folder unless FILE names it' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand run" -l format -d 'How events are written: auto is pretty on a terminal, else json' -r -f -a "auto\t'`pretty` on a terminal, else `json`'
pretty\t'One line an event, for people'
json\t'One JSON object a line'
ecs\t'One JSON object a line, in the Elastic Common Schema'
ocsf\t'One JSON object a line, in the Open Cybersecurity Schema Framework'"
complete -c sensor -n "__fish_sensor_using_subcommand run" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand run" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand run" -l stats -d 'Print rates and the ledger to standard error every few seconds'
complete -c sensor -n "__fish_sensor_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sensor -n "__fish_sensor_using_subcommand doctor" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand doctor" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand doctor" -l json -d 'As JSON instead of a table'
complete -c sensor -n "__fish_sensor_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand status" -l scope-cgroup -d 'The sensor of this scope instead of the whole host\'s' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand status" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand status" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand status" -l json -d 'As JSON instead of tables'
complete -c sensor -n "__fish_sensor_using_subcommand status" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand reload" -l scope-cgroup -d 'The sensor of this scope instead of the whole host\'s' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand reload" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand reload" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand reload" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -f -a "check" -d 'Check it: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -f -a "show" -d 'Print it as it is in effect, as TOML'
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -f -a "schema" -d 'Print the JSON schema of the configuration file'
complete -c sensor -n "__fish_sensor_using_subcommand config; and not __fish_seen_subcommand_from check show schema help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from check" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from check" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from show" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from show" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from show" -l origin -d 'With where each value comes from: file, line and column, a flag, or the default'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from schema" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from schema" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from schema" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check it: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "show" -d 'Print it as it is in effect, as TOML'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "schema" -d 'Print the JSON schema of the configuration file'
complete -c sensor -n "__fish_sensor_using_subcommand config; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -f -a "check" -d 'Check rules: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -f -a "explain" -d 'Print each rule in order, with what it matches and where it runs'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -f -a "test" -d 'Say which rule decides about an event, and how'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and not __fish_seen_subcommand_from check explain test help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from check" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from check" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from explain" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from explain" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from explain" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from test" -l event -d 'The event: a line of the sensor\'s own JSON output, or `-` to read lines from standard input' -r
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from test" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from test" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from test" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from help" -f -a "check" -d 'Check rules: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from help" -f -a "explain" -d 'Print each rule in order, with what it matches and where it runs'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from help" -f -a "test" -d 'Say which rule decides about an event, and how'
complete -c sensor -n "__fish_sensor_using_subcommand filter; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand record" -l events -d 'Event types to report, separated by commas' -r
complete -c sensor -n "__fish_sensor_using_subcommand record" -l scope-cgroup -d 'Record, read and show nothing outside this cgroup (a directory of cgroup v2)' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand record" -l duration -d 'Stop after this time, such as 10s' -r
complete -c sensor -n "__fish_sensor_using_subcommand record" -l backend -d 'Kind of hooks to use: auto takes the best that this kernel allows, per event type' -r -f -a "auto\t'The best that this kernel allows, chosen per event type by trial'
fentry\t'BPF trampolines only'
kprobe\t'Kprobes only'
syscall-exit\t'The exit of system calls only'"
complete -c sensor -n "__fish_sensor_using_subcommand record" -l ebpf-log -d 'Log what the eBPF programs log; needs the object that `cargo xtask build-ebpf --log` makes, which is looked for beside this program and in its build folder unless FILE names it' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand record" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand record" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand record" -l stats -d 'Print rates and the ledger to standard error every few seconds'
complete -c sensor -n "__fish_sensor_using_subcommand record" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l events -d 'Event types to report, separated by commas' -r
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l format -d 'How events are written: auto is pretty on a terminal, else json' -r -f -a "auto\t'`pretty` on a terminal, else `json`'
pretty\t'One line an event, for people'
json\t'One JSON object a line'
ecs\t'One JSON object a line, in the Elastic Common Schema'
ocsf\t'One JSON object a line, in the Open Cybersecurity Schema Framework'"
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l deliver -d 'Send what it tells to the sinks of the configuration, too, through the spool of its state directory, which no running sensor may use'
complete -c sensor -n "__fish_sensor_using_subcommand replay" -l stats -d 'Print the ledger to standard error at the end'
complete -c sensor -n "__fish_sensor_using_subcommand replay" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sensor -n "__fish_sensor_using_subcommand decode" -l format -d 'How it is printed, a line each' -r -f -a "json\t'Every event, as `sensor --format json` prints it'
ecs\t'Every event in the Elastic Common Schema'
ocsf\t'Every event in the Open Cybersecurity Schema Framework'
packet\t'Every packet without its events: header, digest, ledger, tombstones, blind interval'"
complete -c sensor -n "__fish_sensor_using_subcommand decode" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand decode" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand decode" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c sensor -n "__fish_sensor_using_subcommand data-provision" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand data-provision" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand data-provision" -l json -d 'As JSON instead of Markdown'
complete -c sensor -n "__fish_sensor_using_subcommand data-provision" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand install" -l root -d 'Folder that stands for /, such as that of an image' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand install" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand install" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand install" -l dry-run -d 'Only print what would be done'
complete -c sensor -n "__fish_sensor_using_subcommand install" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -l root -d 'Folder that stands for /, such as that of an image' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -l config -d 'Configuration file, read instead of /etc/sensor/sensor.toml and /etc/sensor/conf.d' -r -F
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -l log-level -d 'What is logged to standard error: error, warn, info, debug, trace, or directives such as info,sensor::loader=debug' -r
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -l purge -d 'Take away configuration, spool and events as well'
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -l dry-run -d 'Only print what would be done'
complete -c sensor -n "__fish_sensor_using_subcommand uninstall" -s h -l help -d 'Print help'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "run" -d 'Watch this host and report events (the default)'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "doctor" -d 'Tell what works on this host, which hook each event type would use, and what to do about the rest'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "status" -d 'Tell how the running sensor stands: rates, account, spool, sinks'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "reload" -d 'Have the running sensor read its filter rules again, all or nothing'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "config" -d 'Look at the configuration'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "filter" -d 'Look at the filter rules'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "record" -d 'Write the kernel\'s records to a file, to be replayed later'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "replay" -d 'Send recorded kernel records through the pipeline again; needs no privilege'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "decode" -d 'Print what stands in telemetry packets and in segments of the spool; needs no privilege'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "data-provision" -d 'Print which data leaves this host with the loaded configuration: every item, what for, what is withheld, where to, how long'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "install" -d 'Set this program up as a service of systemd, on hosts without a package of it: program, unit, configuration, folders'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "uninstall" -d 'Take away what `install` made; configuration, spool and events stay'
complete -c sensor -n "__fish_sensor_using_subcommand help; and not __fish_seen_subcommand_from run doctor status reload config filter record replay decode data-provision install uninstall help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "check" -d 'Check it: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "show" -d 'Print it as it is in effect, as TOML'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from config" -f -a "schema" -d 'Print the JSON schema of the configuration file'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from filter" -f -a "check" -d 'Check rules: `ok`, or every error with file, line, column and key (exit code 2)'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from filter" -f -a "explain" -d 'Print each rule in order, with what it matches and where it runs'
complete -c sensor -n "__fish_sensor_using_subcommand help; and __fish_seen_subcommand_from filter" -f -a "test" -d 'Say which rule decides about an event, and how'
