# host.service.* on a node that Systems Manager reaches. service_verb is what to
# do, status, or undo: then service_what, active or enabled, becomes what it was
# before. What it was before is kept under the step's token.
umask 077
own=$(dirname "$0")
stop() { code=$1; shift; printf 'almanac: %s\n' "$*" >&2; exit "$code"; }
if [ "$service_verb" = undo ]; then
  own=${own%-undo}
  mkdir -p "$own" || stop 75 "the state directory cannot be written"
  exec 8>"$own/lock"
  flock 8
fi
name=$service_name
umask 022
top=${ALMANAC_ROOT:-}

settle() { sync "$@" 2>/dev/null || sync; } # onto the disk; an old sync takes no names
keep() { # name, text
  printf '%s\n' "$2" >"$own/$1.new" && settle "$own/$1.new" && mv -f "$own/$1.new" "$own/$1" || stop 75 "the state directory cannot be written (is the disk full?)"
}

if [ -d "$top/run/systemd/system" ]; then
  look() { # sets active and enabled
    shown=$(systemctl show --property=LoadState,ActiveState,UnitFileState -- "$name" 2>&1) || stop 76 "show service $name: $shown"
    active=no enabled=no load=
    while IFS='=' read -r key value; do
      case $key=$value in
        LoadState=*) load=$value ;;
        ActiveState=active | ActiveState=activating | ActiveState=reloading) active=yes ;;
        UnitFileState=enabled*) enabled=yes ;;
      esac
    done <<END
$shown
END
    case $load in
      loaded | masked) ;;
      *) stop 73 "the node has no service $name" ;;
    esac
  }
  run() {
    code=0
    systemctl "$1" -- "$name" >"$own/said" 2>&1 </dev/null || code=$?
  }
elif [ -d "$top/etc/init.d" ]; then
  script=$top/etc/init.d/$name
  look() {
    if [ ! -f "$script" ] || [ ! -x "$script" ]; then stop 73 "the node has no service $name"; fi
    active=no enabled=no code=0
    "$script" status >"$own/said" 2>&1 </dev/null || code=$?
    # LSB: 0 runs, 1 to 3 does not, others do not know.
    [ "$code" -le 3 ] || stop 76 "status service $name: exit code $code: $(head -c 2000 "$own/said")"
    if [ "$code" = 0 ]; then active=yes; fi
    for link in "$top"/etc/rc[2-5].d/S[0-9][0-9]*; do
      case $link in
        */S[0-9][0-9]"$name") enabled=yes ;;
      esac
    done
  }
  run() {
    code=0
    case $1 in
      enable | disable) update-rc.d "$name" "$1" >"$own/said" 2>&1 </dev/null || code=$? ;;
      *) "$script" "$1" >"$own/said" 2>&1 </dev/null || code=$? ;;
    esac
  }
else
  stop 71 "the node has no services: neither systemd runs, nor is there an /etc/init.d"
fi
do_it() {
  run "$1"
  [ "$code" = 0 ] || stop 76 "$1 service $name: exit code $code: $(head -c 2000 "$own/said")"
}

before=$(cat "$own/before" 2>/dev/null || :)
if [ "$service_verb" = undo ]; then
  case $before in
    *undone) exit 0 ;;
    "")
      [ -z "$service_changed" ] || stop 73 "what service $name was before is no longer known on this node"
      keep before undone # it was never begun, and is not to begin late
      exit 0 ;;
  esac
  look
  was=${before%% *} is=$active on=start off=stop
  if [ "$service_what" = enabled ]; then
    was=${before##* } is=$enabled on=enable off=disable
  fi
  case $was$is in
    yesno) do_it "$on" ;;
    noyes) do_it "$off" ;;
  esac
  keep before undone
  exit 0
fi
look
was="$active $enabled"
if [ "$service_verb" != status ]; then
  case $before in
    undone) stop 74 "this step was rolled back on this node already" ;;
    "") keep before "$was" ;;
    *) was=$before ;; # of the first attempt
  esac
  do_it "$service_verb"
  look
fi
echo "active=$active"
echo "enabled=$enabled"
if [ "$was" = "$active $enabled" ]; then echo changed=no; else echo changed=yes; fi
