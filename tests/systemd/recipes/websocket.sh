# A WebSocket upstream for one connection on standard input and output: agrees, and sends back what comes.
key=
while read -r line && line=${line%$'\r'} && [ -n "$line" ]; do
    case ${line,,} in sec-websocket-key:*) key=${line#*:} && key=${key// /} ;; esac
done
sum=$(printf '%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11' "$key" | sha1sum | cut -d' ' -f1)
accept=$(printf "$(printf '%s' "$sum" | sed 's/../\\x&/g')" | base64)
printf 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n' "$accept"
exec cat
