# Turns the lines of protobuf.awk into a table of the messages that the kinds of kubernetes.json need:
#   message -> field number -> "name:type"
def message_of: sub("^(\\*|\\[\\]|\\{\\})"; "") | select(startswith("io.k8s."));
def closure($all; $todo; $done):
  ($todo - ($done | keys)) as $next
  | if ($next | length) == 0 then $done
    else reduce $next[] as $name ($done; .[$name] = ($all[$name] // {}))
      | . as $grown
      | closure($all; [$next[] | $grown[.] | .[]? | sub("^[^:]*:"; "") | message_of] | unique; $grown)
    end;
[inputs | split(" ")]
| (reduce .[] as $f ({}; .[$f[0]][$f[1]] = $f[2] + ":" + $f[3])) as $all
| ($kinds[0] | [to_entries[] | select(.value["x-kubernetes-group-version-kind"]) | .key]) as $roots
| closure($all; $roots + ["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"]; {})
