# host.file.write and host.file.remove on a node that Systems Manager reaches.
# file_verb is write, remove or undo; the content to write is standard input. What
# there was is kept under the step's token before the file is touched: phase
# (prepared, made, undone), before and after ("none", or checksum, mode, user and
# group), and backup. An attempt that finds them goes on from there.
umask 077
own=$(dirname "$0")
stop() { code=$1; shift; printf 'almanac: %s\n' "$*" >&2; exit "$code"; }
if [ "$file_verb" = undo ]; then
  own=${own%-undo}
  mkdir -p "$own" || stop 75 "the state directory cannot be written"
  exec 8>"$own/lock"
  flock 8
fi
token=$(basename "$own")
path=$file_path
dir=${path%/*}
dir=${dir:-/}
name=${path##*/}
temp=${dir%/}/.almanac-$token

settle() { sync "$@" 2>/dev/null || sync; } # onto the disk; an old sync takes no names
keep() { # name, text
  printf '%s\n' "$2" >"$own/$1.new" && settle "$own/$1.new" && mv -f "$own/$1.new" "$own/$1" || stop 75 "the state directory cannot be written (is the disk full?)"
}
kept() { cat "$own/$1" 2>/dev/null || :; }

look() { # what there is
  if [ -L "$path" ]; then stop 71 "$name is a symbolic link (to $(readlink "$path")); name the file itself"; fi
  if [ ! -e "$path" ]; then echo none; return 0; fi
  if [ ! -f "$path" ]; then stop 71 "$name is not a regular file"; fi
  sum=$(sha256sum <"$path") || stop 72 "$path cannot be read"
  about=$(stat -c '%a %u %g' "$path") || stop 72 "$path cannot be read"
  echo "${sum%% *} $about"
}
sum_of() { echo "${1%% *}"; }

put() { # from which file, and as what: checksum, mode, user, group
  rm -f "$temp"
  (set -C; cat <"$1" >"$temp") || { rm -f "$temp"; stop 76 "$path cannot be written (is the disk full?)"; }
  sum=$(sha256sum <"$temp")
  if [ "${sum%% *}" != "$2" ]; then rm -f "$temp"; stop 74 "what $path was to become is damaged (a backup that was cut off?); it is left as it is"; fi
  # The mode after the owner: a change of owner takes setuid away.
  chown "$4:$5" "$temp" && chmod "$3" "$temp" || { rm -f "$temp"; stop 72 "the owner or the mode of $path cannot be set"; }
  settle "$temp"
  mv -f "$temp" "$path" || { rm -f "$temp"; stop 76 "$path cannot be written"; }
  settle "$dir"
}

id_of() { # of a user or a group, by name or number
  case $2 in
    *[!0-9]*) getent "$1" "$2" | cut -d: -f3 ;;
    *) echo "$2" ;;
  esac
}

wanted() { # what the file is to be, given what it is
  if [ "$file_verb" = remove ]; then echo none; return 0; fi
  mode=644 user=$(id -u) group=$(id -g)
  if [ "$1" != none ]; then
    set -- $1
    mode=$2 user=$3 group=$4
  fi
  mode=${file_mode:-$mode}
  if [ -n "$file_owner" ]; then
    user=$(id_of passwd "$file_owner")
    [ -n "$user" ] || stop 71 "the node has no user \"$file_owner\""
  fi
  if [ -n "$file_group" ]; then
    group=$(id_of group "$file_group")
    [ -n "$group" ] || stop 71 "the node has no group \"$file_group\""
  fi
  content=$(sha256sum <"$own/content")
  echo "${content%% *} $mode $user $group"
}

alter() {
  cat >"$own/content" || stop 75 "the state directory cannot be written (is the disk full?)"
  case $(kept phase) in
    made) return 0 ;;
    undone) stop 74 "this step was rolled back on this node already" ;;
  esac
  [ -d "$dir" ] || stop 73 "there is no directory $dir on the node"
  now=$(look) || exit
  # An earlier attempt may have come so far, and was killed.
  if [ "$(kept phase)" != prepared ] || [ "$(sum_of "$now")" != "$(sum_of "$(kept after)")" ]; then
    if [ "$now" != none ]; then
      cp -f "$path" "$own/backup" || stop 75 "the backup cannot be written (is the disk full?)"
      sum=$(sha256sum <"$own/backup")
      [ "${sum%% *}" = "$(sum_of "$now")" ] || stop 74 "$path was changed by somebody else at this moment"
    fi
    after=$(wanted "$now") || exit
    keep before "$now"
    keep after "$after"
    keep phase prepared
  fi
  if [ "$(kept after)" != "$(kept before)" ]; then
    if [ "$(kept after)" = none ]; then
      rm -f "$path" || stop 72 "$path cannot be removed"
      settle "$dir"
    else
      put "$own/content" $(kept after)
    fi
  fi
  keep phase made
}

undo() {
  case $(kept phase) in
    undone) return 0 ;;
    "")
      [ -z "$file_changed" ] || stop 73 "the backup of $path is no longer on this node"
      keep phase undone # it was never begun, and is not to begin late
      return 0 ;;
  esac
  before=$(kept before) after=$(kept after)
  if [ "$before" != "$after" ] && { [ -d "$dir" ] || [ "$before" != none ]; }; then
    [ -d "$dir" ] || stop 73 "there is no directory $dir on the node"
    rm -f "$temp"
    now=$(look) || exit
    if [ "$now" = "$before" ]; then :
    elif [ "$(sum_of "$now")" != "$(sum_of "$after")" ] && [ "$(sum_of "$now")" != "$(sum_of "$before")" ]; then
      stop 74 "$path was changed by somebody else since; it is left as it is, and what it was before is in $own/backup"
    elif [ "$before" = none ]; then
      rm -f "$path" || stop 72 "$path cannot be removed"
      settle "$dir"
    else
      put "$own/backup" $before
    fi
  fi
  keep phase undone
}

if [ "$file_verb" = undo ]; then
  undo
  exit 0
fi
alter
if [ "$(kept before)" = "$(kept after)" ]; then echo changed=no; else echo changed=yes; fi
if [ "$(kept before)" = none ]; then echo created=yes; else echo created=no; fi
