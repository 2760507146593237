# An upstream for one connection on standard input and output, which takes its time: /slow/7 is answered after 7 seconds.
read -r _ path _
while read -r line && [ "${line%$'\r'}" ]; do :; done
seconds=${path##*/}
sleep "$seconds"
printf 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
