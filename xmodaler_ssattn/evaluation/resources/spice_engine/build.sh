#!/bin/sh
# Compiles PassThroughEngine.java for Java 8 and later into spice_engine.jar, the same bytes every time.
set -eu
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
javac --release 8 -g:none -Xlint:-options -d "$out" PassThroughEngine.java
mkdir -p "$out/META-INF/services"
echo 'xmodaler_ssattn.PassThroughEngine$Factory' > "$out/META-INF/services/javax.script.ScriptEngineFactory"
rm -f spice_engine.jar
jar --create --no-manifest --date=1980-01-01T00:00:02Z --file spice_engine.jar -C "$out" .
