#!/bin/sh
# deploy/install-packages with a stand-in for every command that looks at or changes the system.
#   install_packages_test.sh SOURCE_DIR
# shellcheck disable=SC2016  # What a stand-in holds is expanded when it runs.
set -eu
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir "$root/deploy" "$root/bin"
cp "$1/deploy/install-packages" "$root/deploy/"
cat > "$root/deploy/packages.txt" <<'END'
# A comment.
[build]
alpha
beta   # Another.
tool command:some-tool
[test]
gamma
daemon service:daemon
[later]
zeta since:13
[other]
delta
END

for command in sh env awk sed grep tr dirname cat; do
  ln -s "$(command -v "$command")" "$root/bin/$command"
done
stub() {  # stub NAME SCRIPT
  printf '#!/bin/sh\n%s\n' "$2" > "$root/bin/$1"
  chmod +x "$root/bin/$1"
}
# As dpkg-query answers: known ones on stdout, 1 if there are others. $INSTALLED is the test's.
stub dpkg-query 'case "$*" in *base-files) echo "$RELEASE.4+deb${RELEASE}u2"; exit ;; esac
for p in $INSTALLED; do echo "installed $p"; done; echo "config-files delta"; exit 1'
stub apt-get 'echo "apt-get $* [$DEBIAN_FRONTEND $RUNLEVEL]"'
stub id 'echo "$USER_ID"'

failures=0
# expect NAME STATUS OUTPUT [ARGUMENT...]: OUTPUT is all that it prints, or with a leading ~ a part.
expect() {
  name=$1 status=$2 output=$3
  shift 3
  got_status=0
  got=$(PATH="$root/bin" "$root/deploy/install-packages" "$@" 2>&1) || got_status=$?
  case $output in
    "~"*) case $got in *"${output#"~"}"*) same=1 ;; *) same=0 ;; esac ;;
    *) if [ "$got" = "$output" ]; then same=1; else same=0; fi ;;
  esac
  if [ "$same" = 1 ] && [ "$got_status" = "$status" ]; then
    echo "ok: $name"
  else
    printf 'FAILED: %s\n  expected %s: %s\n  got %s: %s\n' "$name" "$status" "$output" "$got_status" "$got"
    failures=$((failures + 1))
  fi
}
installs() {  # What it prints when it installs $1 with the prefix $2.
  printf 'Installing Debian packages%s: %s\n' "${2:-}" "$1"
  printf 'apt-get -q -o DPkg::Lock::Timeout=120 update [noninteractive 1]\n'
  printf 'apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends %s [noninteractive 1]' "$1"
}

export INSTALLED USER_ID RELEASE
RELEASE=12
USER_ID=0
INSTALLED="alpha beta tool gamma daemon"
expect "silent when nothing is missing" 0 ""
INSTALLED="alpha tool daemon"
expect "installs only what is missing" 0 "$(installs "beta gamma")"
expect "takes sections as arguments" 0 "$(installs "beta delta")" build other
INSTALLED="alpha beta"
expect "installs what no command stands for" 0 "$(installs "tool")" build
expect "does without what this Debian does not have yet" 0 "" later
RELEASE=13
expect "installs what this Debian has" 0 "$(installs "zeta")" later
stub some-tool ''
expect "leaves alone what a command stands for" 0 "" build
expect "names the sections there are" 1 "~no section [nope]" nope
USER_ID=1000
expect "says that it needs root" 1 "~need root, or sudo, to install: delta" other
stub sudo '"$@"'
expect "goes through sudo" 0 "$(installs "delta" " (through sudo)")" other
stub apt-get 'exit 100'
expect "tells that apt failed" 1 "~apt-get update failed" other
rm "$root/bin/apt-get"
expect "says what is wanted where there is no apt" 1 "~not a Debian system" build
stub apt-get ''
echo "epsilon comand:x" >> "$root/deploy/packages.txt"
expect "refuses an attribute it does not know" 1 "~package epsilon: 'comand:x'" other
exit "$failures"
