# Whether each of these models has a version that answers: bash ready.sh image_tower text_tower
# The status of a model that is still being loaded is a 200 too, so its state is read. The image of the model server has no
# curl, but its bash opens connections.
for model in "$@"; do
  exec 3<>"/dev/tcp/127.0.0.1/${PORT:-8501}" || exit 1
  printf 'GET /v1/models/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$model" >&3
  grep -q '"state": "AVAILABLE"' <&3 || exit 1
  exec 3>&-
done
