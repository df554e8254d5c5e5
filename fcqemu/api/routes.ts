/**
 * From method, path and body to an action, with Firecracker's order of checks: method and path, id, JSON,
 * id in the path against id in the body.
 */
import { RequestFault } from '../fault.ts';
import type { HttpRequest, Method } from '../http/request-parser.ts';
import { debugText, JsonError } from '../json/scanner.ts';
import { anything, deserialize, type Read } from '../json/schema.ts';
import type { Action, ActionArguments, ActionName, ParsedRequest } from './actions.ts';
import * as bodies from './bodies.ts';
import { cpuConfig } from './cpu-config.ts';

/** The segments after the first. */
type Segments = string[];

/** @throws Fault */
export function parseRequest({ method, path, body }: HttpRequest): ParsedRequest {
  const segments = path.replace(/^\/+/, '').split('/');
  // like split_terminator: a trailing slash opens no new segment
  if (segments.at(-1) === '') segments.pop();
  const [first = '', ...rest] = segments;
  switch (method) {
    case 'GET':
      return body ? fail('GET request cannot have a body.') : parseGet(first, rest);
    case 'PUT':
      return body ? parsePut(first, rest, body) : fail('Empty PUT request.');
    case 'PATCH':
      return parsePatch(first, rest, body);
    case 'DELETE':
      return body ? fail('Empty Delete request.') : parseDelete(first, rest);
  }
}

function parseGet(first: string, rest: Segments): ParsedRequest {
  switch (first) {
    case '':
      return plain('GetVmInstanceInfo');
    case 'version':
      return plain('GetVmmVersion');
    case 'vm':
      return rest[0] === 'config' ? plain('GetFullVmConfig') : invalidPath('GET', first);
    case 'machine-config':
      return plain('GetVmMachineConfig');
    case 'mmds':
      return plain('GetMmds');
    case 'balloon':
      return parseGetBalloon(rest);
    case 'hotplug':
      return rest[0] === 'memory' ? plain('GetMemoryHotplugStatus') : invalidPath('GET', first);
    default:
      return invalidPath('GET', first);
  }
}

function parseGetBalloon([topic, detail = '']: Segments): ParsedRequest {
  if (topic === undefined) return plain('GetBalloonConfig');
  if (topic === 'statistics') return plain('GetBalloonStats');
  if (topic !== 'hinting') return fail(`Unrecognized GET request path \`${topic}\`.`);
  if (detail !== 'status') return fail(`Unrecognized GET request path \`/hinting/${detail}\`.`);
  return plain('GetFreePageHintingStatus');
}

function parsePut(first: string, rest: Segments, body: Buffer): ParsedRequest {
  switch (first) {
    case 'actions':
      return parseAction(body);
    case 'boot-source':
      return withBody('ConfigureBootSource', bodies.bootSource, body);
    case 'machine-config':
      return parsePutMachineConfig(body);
    case 'cpu-config':
      return withBody('PutCpuConfiguration', cpuConfig, body);
    case 'drives':
      return withId('InsertBlockDevice', bodies.drive, 'drive_id', rest, body);
    case 'pmem':
      return withId('InsertPmemDevice', bodies.pmem, 'id', rest, body);
    case 'network-interfaces':
      return withId('InsertNetworkDevice', bodies.networkInterface, 'iface_id', rest, body);
    case 'vsock':
      return parsePutVsock(body);
    case 'entropy':
      return withBody('SetEntropyDevice', bodies.entropy, body);
    case 'serial':
      return withBody('ConfigureSerial', bodies.serial, body);
    case 'logger':
      return withBody('ConfigureLogger', bodies.logger, body);
    case 'metrics':
      return withBody('ConfigureMetrics', bodies.metrics, body);
    case 'balloon':
      return withBody('SetBalloonDevice', bodies.balloon, body);
    case 'mmds':
      return parsePutMmds(rest[0], body);
    case 'snapshot':
      return parsePutSnapshot(rest[0], body);
    case 'hotplug':
      if (rest[0] !== 'memory') return invalidPath('PUT', first);
      return withBody('SetMemoryHotplugDevice', bodies.memoryHotplug, body);
    default:
      return invalidPath('PUT', first);
  }
}

function parseAction(body: Buffer): ParsedRequest {
  const { action_type } = read(body, bodies.instanceAction);
  return plain(action_type === 'InstanceStart' ? 'StartMicroVm' : action_type);
}

function parsePutMachineConfig(body: Buffer): ParsedRequest {
  const request = withBody('UpdateMachineConfiguration', bodies.machineConfig, body);
  return { ...request, ...templateDeprecation('PUT', request) };
}

function templateDeprecation(method: Method, { action }: ParsedRequest): { deprecation?: string } {
  const used = action.name === 'UpdateMachineConfiguration' && action.argument.cpu_template !== null;
  return used ? { deprecation: `${method} /machine-config: cpu_template field is deprecated.` } : {};
}

function parsePutVsock(body: Buffer): ParsedRequest {
  const argument = read(body, bodies.vsock);
  const deprecation = argument.vsock_id === null ? {} : { deprecation: 'PUT /vsock: vsock_id field is deprecated.' };
  return { action: { name: 'SetVsockDevice', argument }, ...deprecation };
}

function parsePutMmds(topic: string | undefined, body: Buffer): ParsedRequest {
  if (topic === undefined) return { action: { name: 'PutMmds', argument: { data: read(body, anything) } } };
  if (topic !== 'config') return fail(`Unrecognized PUT request path \`${topic}\`.`);
  const argument = read(body, bodies.mmdsConfig);
  const deprecation =
    argument.version === 'V1' ? { deprecation: 'PUT /mmds/config: V1 is deprecated. Use V2 instead.' } : {};
  return { action: { name: 'SetMmdsConfiguration', argument }, ...deprecation };
}

function parsePutSnapshot(operation: string | undefined, body: Buffer): ParsedRequest {
  if (operation === undefined) return fail('Missing snapshot operation type.');
  if (operation === 'create') return withBody('CreateSnapshot', bodies.snapshotCreate, body);
  if (operation !== 'load') return invalidPath('PUT', `/snapshot/${operation}`);
  const argument = read(body, bodies.snapshotLoad);
  const choice = 'either `mem_backend` or `mem_file_path`';
  if (argument.mem_backend && argument.mem_file_path !== null) {
    throw jsonFault(new JsonError(`too many fields: ${choice} exclusively is required`));
  }
  if (!argument.mem_backend && argument.mem_file_path === null) {
    throw jsonFault(new JsonError(`missing field: ${choice} is required`));
  }
  const isOld = argument.mem_file_path !== null || argument.enable_diff_snapshots;
  const deprecation = isOld
    ? { deprecation: 'PUT /snapshot/load: mem_file_path and enable_diff_snapshots fields are deprecated.' }
    : {};
  return { action: { name: 'LoadSnapshot', argument }, ...deprecation };
}

function parsePatch(first: string, rest: Segments, body: Buffer | undefined): ParsedRequest {
  if (first === 'balloon' && rest[0] === 'hinting') return parsePatchHinting(rest[1] ?? '', body);
  if (!body) return fail('Empty PATCH request.');
  switch (first) {
    case 'balloon':
      if (rest[0] === 'statistics') return withBody('UpdateBalloonStatistics', bodies.balloonStatsUpdate, body);
      return withBody('UpdateBalloon', bodies.balloonUpdate, body);
    case 'drives':
      return withId('UpdateBlockDevice', bodies.driveUpdate, 'drive_id', rest, body);
    case 'pmem':
      return withId('UpdatePmemDevice', bodies.pmemUpdate, 'id', rest, body);
    case 'network-interfaces':
      return withId('UpdateNetworkInterface', bodies.networkUpdate, 'iface_id', rest, body);
    case 'machine-config':
      return parsePatchMachineConfig(body);
    case 'mmds':
      return { action: { name: 'PatchMmds', argument: { data: read(body, anything) } } };
    case 'vm':
      return plain(read(body, bodies.vmState).state === 'Paused' ? 'Pause' : 'Resume');
    case 'hotplug':
      if (rest[0] !== 'memory') return invalidPath('PATCH', first);
      return withBody('UpdateMemoryHotplugSize', bodies.memoryHotplugUpdate, body);
    default:
      return invalidPath('PATCH', first);
  }
}

function parsePatchHinting(command: string, body: Buffer | undefined): ParsedRequest {
  if (command === 'stop') return plain('StopFreePageHinting');
  if (command !== 'start') return fail(`Unrecognized PATCH request path \`/hinting/${command}\`.`);
  const argument = body ? read(body, bodies.hintingStart) : { acknowledge_on_stop: true };
  return { action: { name: 'StartFreePageHinting', argument } };
}

function parsePatchMachineConfig(body: Buffer): ParsedRequest {
  const argument = read(body, bodies.machineConfigUpdate);
  if (Object.values(argument).every((value) => value === null)) return fail('Empty PATCH request.');
  const request: ParsedRequest = { action: { name: 'UpdateMachineConfiguration', argument } };
  return { ...request, ...templateDeprecation('PATCH', request) };
}

function parseDelete(first: string, rest: Segments): ParsedRequest {
  switch (first) {
    case 'drives':
      return { action: { name: 'RemoveBlockDevice', argument: { id: checkedId(rest[0]) } } };
    case 'pmem':
      return { action: { name: 'RemovePmemDevice', argument: { id: checkedId(rest[0]) } } };
    case 'network-interfaces':
      return { action: { name: 'RemoveNetworkDevice', argument: { id: checkedId(rest[0]) } } };
    default:
      return invalidPath('DELETE', first);
  }
}

/** Names of actions without an argument. */
type PlainAction = { [N in ActionName]: ActionArguments[N] extends undefined ? N : never }[ActionName];

function plain(name: PlainAction): ParsedRequest {
  return { action: { name, argument: undefined } };
}

function withBody<N extends ActionName>(name: N, schema: Read<ActionArguments[N]>, body: Buffer): ParsedRequest {
  return { action: { name, argument: read(body, schema) } as Action };
}

/** For resources whose id stands in the path and in the body. */
function withId<N extends ActionName, K extends string>(
  name: N,
  schema: Read<ActionArguments[N] & Record<K, string>>,
  field: K,
  [segment]: Segments,
  body: Buffer,
): ParsedRequest {
  const id = checkedId(segment);
  const argument = read(body, schema);
  const inBody = argument[field];
  if (id !== inBody) {
    if (field !== 'iface_id') return fail('The id from the path does not match the id from the body!');
    return fail(`The id from the path [${id}] does not match the id from the body [${inBody}]!`);
  }
  return { action: { name, argument } as Action };
}

function checkedId(id: string | undefined): string {
  if (id === undefined || id === '') throw new RequestFault('The ID cannot be empty.', 'EmptyID');
  if (!/^[_\p{Alphabetic}\p{N}]+$/u.test(id)) {
    const reason = 'API Resource IDs can only contain alphanumeric characters and underscores.';
    throw new RequestFault(reason, 'InvalidID');
  }
  return id;
}

function read<T>(body: Buffer, schema: Read<T>): T {
  try {
    return deserialize(body, schema);
  } catch (error) {
    if (error instanceof JsonError) throw jsonFault(error);
    throw error;
  }
}

function jsonFault(error: JsonError): RequestFault {
  const message = `An error occurred when deserializing the json body of a request: ${error.message}.`;
  return new RequestFault(message, `SerdeJson(${error.debug})`);
}

function invalidPath(method: Method, path: string): never {
  const name = `${method.charAt(0)}${method.slice(1).toLowerCase()}`;
  const debug = `InvalidPathMethod(${debugText(path)}, ${name})`;
  throw new RequestFault(`Invalid request method and/or path: ${method} ${path}.`, debug);
}

function fail(message: string): never {
  throw new RequestFault(message, `Generic(BadRequest, ${debugText(message)})`);
}
