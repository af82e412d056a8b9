-- Health of a DbtRun for Argo CD: in argocd-cm under resource.customizations.health.dbtrun.dev_DbtRun
local health = { status = "Progressing", message = "Not seen by the watcher yet" }
local status = obj.status
if status == nil or status.phase == nil then
  return health
end
health.message = status.message or status.phase
if status.observedGeneration ~= obj.metadata.generation then
  return health
end
local byPhase = {
  Succeeded = "Healthy",
  Failed = "Degraded",
  Cancelled = "Degraded",
  TimedOut = "Degraded",
  Error = "Degraded",
}
health.status = byPhase[status.phase] or "Progressing"
if status.reason == "Suspended" then
  health.status = "Suspended"
end
return health
