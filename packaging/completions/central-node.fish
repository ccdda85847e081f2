# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_central_node_global_optspecs
    string join \n log-level= h/help V/version
end

function __fish_central_node_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_central_node_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_central_node_using_subcommand
    set -l cmd (__fish_central_node_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c central-node -n "__fish_central_node_needs_command" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_needs_command" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_needs_command" -s V -l version -d 'Print version'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "serve" -d 'Takes packets until SIGINT or SIGTERM'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "agents" -d 'Shows who delivers: last seen, lag, completeness, conflicts'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "query" -d 'Finds events: the newest that match, as JSON lines or as a table'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "export" -d 'Writes events in the order of arrival as JSON lines, each with its position, from which the next export goes on'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "settings" -d 'Sets and shows the filter settings that agents get'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "certificates" -d 'Makes an authority, a server\'s and agents\' certificates for a first try'
complete -c central-node -n "__fish_central_node_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l config -d 'Configuration, TOML (docs/central-node.md)' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l listen -d 'Address and port to listen on; port 0: one that the system picks' -r
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l certificate -d 'The server\'s certificate with its chain, PEM' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l key -d 'Its key, PEM' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l client-ca -d 'Authorities that agents\' certificates are from, PEM' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand serve" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand serve" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l since -d 'Completeness from then on: a time (RFC 3339) or how long ago' -r
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l until -d 'Completeness up to then; now, where absent' -r
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l type -d 'Completeness of one event type' -r
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l agent -d 'These agents only' -r
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand agents" -l json -d 'One JSON object per line, with every finding'
complete -c central-node -n "__fish_central_node_using_subcommand agents" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand query" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand query" -l since -d 'Happened then or later: a time (RFC 3339) or how long ago (`15m`, `2h`, `7d`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l until -d 'Happened then or before' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l agent -d 'Agent id' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l host -d 'Name of the host' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l type -d 'Event type: exec, exit, file_create, connect, ...' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l process -d 'The acting process: its unique_pid, the path of its program, or its name; path and name may be patterns' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l path -d 'Path of a file that the event is about; may be a pattern (`/etc/*`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l hash -d 'MD5, SHA-1 or SHA-256' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l address -d 'Address of either end, or a network (`10.0.0.0/8`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l port -d 'Port of either end' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l user -d 'User of the process: number or name; the name may be a pattern' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l limit -d 'The newest so many, in the order of their time; 0: all, in the order of arrival' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand query" -l table -d 'A table for people instead of JSON lines'
complete -c central-node -n "__fish_central_node_using_subcommand query" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand export" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand export" -l since -d 'Happened then or later: a time (RFC 3339) or how long ago (`15m`, `2h`, `7d`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l until -d 'Happened then or before' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l agent -d 'Agent id' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l host -d 'Name of the host' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l type -d 'Event type: exec, exit, file_create, connect, ...' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l process -d 'The acting process: its unique_pid, the path of its program, or its name; path and name may be patterns' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l path -d 'Path of a file that the event is about; may be a pattern (`/etc/*`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l hash -d 'MD5, SHA-1 or SHA-256' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l address -d 'Address of either end, or a network (`10.0.0.0/8`)' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l port -d 'Port of either end' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l user -d 'User of the process: number or name; the name may be a pattern' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l after -d 'Goes on after the position of the last line of an export before' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l limit -d 'At most so many events' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand export" -l follow -d 'Waits for more'
complete -c central-node -n "__fish_central_node_using_subcommand export" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -f -a "set" -d 'Sets the filter rules: for an agent what was set last counts, for it alone or for all'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -f -a "show" -d 'Shows what was set, newest last'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and not __fish_seen_subcommand_from set show help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from set" -l agent -d 'For this agent alone' -r
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from set" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from set" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from set" -l all -d 'For all agents'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from show" -l data -d 'The data folder' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from show" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from help" -f -a "set" -d 'Sets the filter rules: for an agent what was set last counts, for it alone or for all'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from help" -f -a "show" -d 'Shows what was set, newest last'
complete -c central-node -n "__fish_central_node_using_subcommand settings; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -l folder -d 'Folder for the files. An authority that is there signs; nothing is overwritten' -r -F
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -l server -d 'Names and addresses of the server' -r
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -l agent -d 'An agent\'s certificate: its agent id, or `new` for a random one' -r
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -l days -d 'How long they are valid' -r
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -l log-level -d 'What to log: a level, or `target=level,..`; beats SENSOR_LOG' -r
complete -c central-node -n "__fish_central_node_using_subcommand certificates" -s h -l help -d 'Print help'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "serve" -d 'Takes packets until SIGINT or SIGTERM'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "agents" -d 'Shows who delivers: last seen, lag, completeness, conflicts'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "query" -d 'Finds events: the newest that match, as JSON lines or as a table'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "export" -d 'Writes events in the order of arrival as JSON lines, each with its position, from which the next export goes on'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "settings" -d 'Sets and shows the filter settings that agents get'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "certificates" -d 'Makes an authority, a server\'s and agents\' certificates for a first try'
complete -c central-node -n "__fish_central_node_using_subcommand help; and not __fish_seen_subcommand_from serve agents query export settings certificates help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c central-node -n "__fish_central_node_using_subcommand help; and __fish_seen_subcommand_from settings" -f -a "set" -d 'Sets the filter rules: for an agent what was set last counts, for it alone or for all'
complete -c central-node -n "__fish_central_node_using_subcommand help; and __fish_seen_subcommand_from settings" -f -a "show" -d 'Shows what was set, newest last'
