-- http-request lua.oidc http://127.0.0.1:4180
--
-- Asks oidc_proxy whether the request may pass. If it may, what the answer says of the user is set in the request, and
-- txn.oidc_passes is true; if not, the answer is the client's. Needs HAProxy 2.5 or newer and no other script.

local ASKED = "/oauth2/authz/forward"
local PATIENCE = 5000 -- milliseconds

-- Of this connection only (RFC 9110, 7.6.1), or made anew by whoever sends the message.
local OWN = {}
for name in ([[connection proxy-connection keep-alive te trailer transfer-encoding upgrade content-length expect
  host date]]):gmatch("%S+") do
  OWN[name] = true
end

-- What the application may be told: every header of the answer that says who the user is.
local function announces(name)
  return name == "authorization" or name:find("^x%-auth%-request%-") ~= nil
    or name == "x-forwarded-user" or name == "x-forwarded-email" or name == "x-forwarded-groups"
    or name == "x-forwarded-preferred-username"
end

-- HAProxy counts values from 0 here, and takes them from 1 there.
local function listed(values)
  local list = {}
  for index = 0, #values do
    list[#list + 1] = values[index]
  end
  return list
end

local function kept(headers)
  local found = {}
  for name, values in pairs(headers) do
    if not OWN[name] then
      found[name] = listed(values)
    end
  end
  return found
end

core.register_action("oidc", { "http-req" }, function(txn, address)
  local question = kept(txn.http:req_get_headers())
  -- The words of a handshake say what kind of request it is; the question itself is none.
  if txn.sf:req_hdr("Upgrade") ~= "" then
    question["x-requested-with"] = { "handshake" }
  end
  local answer = core.httpclient():get({ url = address .. ASKED, headers = question, timeout = PATIENCE })
  if answer and answer.status == 200 then
    for name, values in pairs(answer.headers) do
      if announces(name) then
        txn.http:req_set_header(name, values[0])
      end
    end
    txn:set_var("txn.oidc_passes", true)
    return
  end
  local reply = txn:reply()
  if answer == nil or answer.status == nil or answer.status < 300 then
    reply:set_status(503)
  else
    reply:set_status(answer.status, answer.reason)
    for name, values in pairs(kept(answer.headers or {})) do
      for _, value in ipairs(values) do
        reply:add_header(name, value)
      end
    end
    reply:set_body(answer.body or "")
  end
  txn:done(reply)
end, 1)
