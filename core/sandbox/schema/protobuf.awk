# Reads Kubernetes' Go types (for pointer fields, whose zero is a value) and .proto files; prints one line a field:
#   message number name type      with * for a pointer, [] for repeated, {} for a map of strings to the type
FNR == 1 { message = ""; type = "" }
FILENAME ~ /\.go$/ {
  if ($1 == "package") { folder = FILENAME; sub(/\/[^\/]*$/, "", folder) }
  if ($1 == "type" && $3 == "struct") type = $2
  if (type != "" && $2 ~ /^\*(bool|string|int32|int64)$/ && match($0, /json:"[A-Za-z0-9]+/))
    pointer[folder, type, substr($0, RSTART + 6, RLENGTH - 6)] = 1
  next
}
{ folder = FILENAME; sub(/\/[^\/]*$/, "", folder) }
$1 == "package" { package = $2; sub(/;$/, "", package) }
$1 == "message" { message = $2 }
/^}/ { message = "" }
message != "" && /= [0-9]+;/ {
  sub(/^ +/, "")
  mark = ""
  if ($1 == "optional") { type = $2; name = $3; number = $5 }
  else if ($1 == "repeated") { mark = "[]"; type = $2; name = $3; number = $5 }
  else if ($1 ~ /^map</) { mark = "{}"; type = $2; sub(/>$/, "", type); name = $3; number = $5 }
  else next
  sub(/;$/, "", number)
  if (mark == "" && (folder, message, name) in pointer) mark = "*"
  scalar = type ~ /^(string|bytes|bool|int32|int64|double|uint32|uint64|float)$/
  if (!scalar) { if (type ~ /^\./) sub(/^\./, "", type); else type = package "." type; sub(/^k8s\.io\./, "io.k8s.", type) }
  owner = package "." message; sub(/^k8s\.io\./, "io.k8s.", owner)
  print owner, number, name, mark type
}
