#!/bin/sh
# Makes the certificates of an Almanac cluster, for a trial: three authorities, and for each machine a directory with all that it needs
# and nothing else. Needs openssl and a POSIX shell. Run `sh deploy/certificates.sh help`.
set -eu
umask 077

usage() {
	cat <<'END'
Usage: sh deploy/certificates.sh [-d DIR] [-t DAYS] COMMAND [NAME…]

  trial [NAME…]     all that docker-compose.yml wants; NAMEs are more names or addresses of the servers
  server NAME…      for the Temporal servers and PostgreSQL: their host names and IP addresses
  agent ID…         for nodes' agents, by the node's id
  worker NAME…      for control workers, with a certificate for the inventory's database
  operator NAME…    for people who run runbooks
  viewer NAME…      for who only looks
  admin NAME…       for who keeps the servers
  renew             all certificates that are there, if they expire soon

  -d DIR            where to (default: certificates)
  -t DAYS           how long a certificate is good (default: 30)

Run it as often as you like: a certificate that has more than a third of its time left stays, unless the names of the servers are
others than it has. An authority is never made anew. DIR/authorities is what must not get lost or seen: keep it off the machines below.

Examples:
  sh deploy/certificates.sh trial almanac.example.com
  sh deploy/certificates.sh server temporal-1 temporal-2 postgresql 10.0.0.11 10.0.0.12
  sh deploy/certificates.sh agent web-1 web-2 && scp -r certificates/agent-web-1 web-1:/etc/almanac/tls
  sh deploy/certificates.sh -t 7 operator ana

Each directory has ca.crt, tls.crt and tls.key, which all programs take so:
  TEMPORAL_TLS=true TEMPORAL_TLS_SERVER_CA_CERT_PATH=…/ca.crt TEMPORAL_TLS_CLIENT_CERT_PATH=…/tls.crt TEMPORAL_TLS_CLIENT_KEY_PATH=…/tls.key
END
}

dir=certificates
days=30
fail() { echo "certificates.sh: $*" >&2; exit 2; }

while getopts d:t:h option; do
	case $option in
	d) dir=$OPTARG ;;
	t) days=$OPTARG ;;
	h) usage; exit 0 ;;
	*) usage >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
case $days in '' | *[!0-9]* | 0* | ??????*) fail "-t wants a number of days, not '$days'" ;; esac
[ $# -gt 0 ] || { usage >&2; exit 2; }
command -v openssl >/dev/null || fail "needs openssl"

# quietly COMMAND… says what openssl says only if it fails.
quietly() {
	said=$("$@" 2>&1) || { echo "$said" >&2; fail "this failed: $*"; }
}

# authority NAME WHAT makes one unless it is there. Half of one is never completed: that would be another.
authority() {
	a=$dir/authorities/$1
	if [ -e "$a.crt" ] && [ -e "$a.key" ]; then return; fi
	if [ -e "$a.crt" ] || [ -e "$a.key" ]; then
		fail "$a has only one of .crt and .key: put the other back from your copy; or move both away, and give out all certificates anew"
	fi
	mkdir -p "$dir/authorities"
	quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -days 1825 -subj "/O=Almanac/CN=$2" \
		-addext basicConstraints=critical,CA:TRUE,pathlen:0 -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$a.key.new" -out "$a.crt.new"
	mv "$a.key.new" "$a.key"
	mv "$a.crt.new" "$a.crt"
	echo "made    $a.crt"
}

# fits CERTIFICATE KEY tells whether they belong together: a run that was cut off may have put only one in its place.
fits() { [ "$(openssl x509 -in "$1" -noout -pubkey 2>&1)" = "$(openssl pkey -in "$2" -pubout 2>/dev/null)" ]; }

# certificate FILE AUTHORITY CN USES NAMES makes FILE.crt and FILE.key, unless there is one that is good for long enough and has these names.
certificate() {
	a=$dir/authorities/$2
	had=kept
	if [ -e "$1.crt" ] && [ -e "$1.key" ] && [ -e "$1.for" ] && [ "$(cat "$1.for")" = "$2 $3 $4 $5" ] &&
		openssl x509 -in "$1.crt" -noout -checkend $((days * 86400 / 3)) >/dev/null 2>&1 &&
		openssl verify -CAfile "$a.crt" "$1.crt" >/dev/null 2>&1 && fits "$1.crt" "$1.key"; then
		copy "$a.crt" "$6"
		return
	fi
	openssl x509 -in "$a.crt" -noout -checkend $((days * 86400)) >/dev/null ||
		fail "the authority $a.crt itself expires within $days days: move $dir away, make all anew, and give it out"
	[ -e "$1.crt" ] && had=renewed || had=made
	mkdir -p "$(dirname "$1")"
	quietly openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 -subj "/O=Almanac/CN=$3" -keyout "$1.key.new" -out "$1.csr.new"
	cat >"$1.ext.new" <<END
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=$4
subjectAltName=$5
END
	quietly openssl x509 -req -sha256 -in "$1.csr.new" -CA "$a.crt" -CAkey "$a.key" -set_serial "0x0$(openssl rand -hex 15)" \
		-days "$days" -extfile "$1.ext.new" -out "$1.crt.new"
	fits "$1.crt.new" "$1.key.new" || fail "$1.crt.new and .key.new are not whole: is the disk full?" # openssl does not say
	rm "$1.csr.new" "$1.ext.new"
	mv "$1.key.new" "$1.key"
	mv "$1.crt.new" "$1.crt"
	echo "$2 $3 $4 $5" >"$1.for.new" # what to renew it with
	mv "$1.for.new" "$1.for"
	copy "$a.crt" "$6"
	printf '%-7s %s\n' "$had" "$1.crt"
}

copy() { cmp -s "$1" "$2" || cp "$1" "$2"; }

# names NAME… as a certificate wants them.
names() {
	list=
	for n in "$@"; do
		case $n in
		'' | *[!A-Za-z0-9.:_-]*) fail "'$n' is no host name and no address" ;;
		*:*:*) list=$list,IP:$n ;;
		*:*) fail "'$n': give the name or address without a port" ;;
		*[!0-9.]*) list=$list,DNS:$n ;;
		*) list=$list,IP:$n ;;
		esac
	done
	echo "${list#,}"
}

servers() {
	[ $# -gt 0 ] || fail "server wants the names and addresses at which the servers are reached"
	list=$(names "$@") || exit 2
	certificate "$dir/server/tls" clients almanac-server serverAuth "$list" "$dir/server/ca.crt"
	certificate "$dir/server/inside" inside almanac-server serverAuth,clientAuth DNS:almanac-server "$dir/server/inside-ca.crt"
	certificate "$dir/server/database" database temporal clientAuth DNS:temporal "$dir/server/database-ca.crt"
	certificate "$dir/postgresql/tls" database postgresql serverAuth "$list" "$dir/postgresql/ca.crt"
	if ! [ -e "$dir/server/seal.key" ]; then # ties tasks to agents; the same for all servers (docs/authorization.md)
		openssl rand -out "$dir/server/seal.key.new" 32
		[ "$(wc -c <"$dir/server/seal.key.new")" -eq 32 ] || fail "$dir/server/seal.key.new is not whole: is the disk full?"
		mv "$dir/server/seal.key.new" "$dir/server/seal.key"
		echo "made    $dir/server/seal.key"
	fi
}

# callers ROLE NAME… are those who connect to the servers.
callers() {
	role=$1
	shift
	[ $# -gt 0 ] || fail "$role wants a name"
	for n in "$@"; do
		case $n in '' | [!A-Za-z0-9]* | *[!A-Za-z0-9._-]*) fail "'$n' is no name for a certificate: letters, digits, dots, _ and -, the first a letter or a digit" ;; esac
		certificate "$dir/$role-$n/tls" clients "$role" clientAuth "URI:spiffe://almanac/$role/$n" "$dir/$role-$n/ca.crt"
		if [ "$role" = worker ]; then
			certificate "$dir/$role-$n/database" database almanac clientAuth DNS:almanac "$dir/$role-$n/database-ca.crt"
		fi
	done
}

renew() {
	find "$dir" -name '*.for' | sort | {
		lost=
		while read -r file; do
			if ! read -r by cn uses list <"$file"; then # the others are renewed all the same
				lost="$lost $file"
				continue
			fi
			base=${file%.for}
			case ${base##*/} in
			tls) ca=ca.crt ;;
			*) ca=${base##*/}-ca.crt ;;
			esac
			certificate "$base" "$by" "$cn" "$uses" "$list" "$(dirname "$base")/$ca"
		done
		[ -z "$lost" ] || fail "these do not say what their certificate is for, make it again by its name:$lost"
	}
}

command=$1
shift
case $command in
help) usage; exit 0 ;;
trial | server | agent | worker | operator | viewer | admin) ;;
renew) [ -d "$dir/authorities" ] || fail "there is nothing in $dir to renew" ;;
*) usage >&2; fail "there is no command '$command'" ;;
esac
mkdir -p "$dir"
if command -v flock >/dev/null; then # one at a time, on Linux: else two make half an authority each
	exec 9>"$dir/.lock"
	flock 9
fi
authority clients "Almanac: who connects, and the servers' front"
authority inside "Almanac: servers among themselves"
authority database "Almanac: the database"
case $command in
trial)
	servers temporal-1 temporal-2 postgresql localhost 127.0.0.1 "$@"
	callers worker w1
	callers agent web-1 web-2 web-3
	callers operator trial
	callers viewer ui
	callers admin trial
	;;
server) servers "$@" ;;
renew) renew ;;
*) callers "$command" "$@" ;;
esac
