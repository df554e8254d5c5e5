/** Answers API requests: logging, counting, and the shape of answers. */
import { isUtf8 } from 'node:buffer';
import { Panic } from '../exit-code.ts';
import { Fault, RequestFault } from '../fault.ts';
import type { HttpRequest, Method } from '../http/request-parser.ts';
import type { HttpAnswer } from '../http/server.ts';
import { sortedJson, structJson } from '../json/number-text.ts';
import { debugText } from '../json/scanner.ts';
import type { Log, ThreadLog } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Vmm } from '../vmm/vmm.ts';
import type { Action, ParsedRequest } from './actions.ts';
import { parseRequest } from './routes.ts';

export interface ApiOptions {
  vmm: Vmm;
  log: Log;
  metrics: Metrics;
  /** requests that come before wait: a microVM of a configuration file is started first */
  ready: Promise<void>;
  /** called for each request with the length of its body */
  worked: (bytes: number) => void;
  /** ends the process after an error that leaves it unusable */
  onFatal: (what: 'Restore' | 'Resume') => void;
  /** ends the process at once, without an answer */
  onPanic: (panic: Panic) => never;
}

/** The handler for `serveApi`; it never rejects. */
export function createApiHandler({
  vmm,
  log,
  metrics,
  ready,
  worked,
  onFatal,
  onPanic,
}: ApiOptions): (request: HttpRequest) => Promise<HttpAnswer> {
  const threadLog = log.thread('fc_api', 'firecracker::api_server');

  return async (request) => {
    const begin = performance.now();
    threadLog.info(`The API server received a ${describe(request, threadLog)}.`);
    await ready;
    const answer = await perform(request, begin);
    worked(request.body?.length ?? 0);
    threadLog.debug(`Total previous API call duration: ${elapsedUs(begin)} us.`);
    return answer;
  };

  async function perform(request: HttpRequest, begin: number): Promise<HttpAnswer> {
    const parsed = parse(request);
    if (parsed instanceof Fault) return failure(parsed);
    const answer = await act(parsed.action, begin);
    if (parsed.deprecation === undefined) return answer;
    metrics.count('deprecated_api', 'deprecated_http_api_calls');
    threadLog.warn(parsed.deprecation);
    return { ...answer, deprecated: true };
  }

  /** Firecracker counts a request that it reads, and those it cannot; what becomes of the others it does not count. */
  function parse(request: HttpRequest): ParsedRequest | Fault {
    const counter = counterOf(request);
    if (counter) metrics.count(counter.group, `${counter.name}_count`);
    try {
      return parseRequest(request);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (counter && request.method !== 'GET') metrics.count(counter.group, `${counter.name}_fails`);
      return error;
    }
  }

  async function act(action: Action, begin: number): Promise<HttpAnswer> {
    try {
      const value = await vmm.execute(action);
      const answer = success(action, value);
      logLatency(action, begin);
      return answer;
    } catch (error) {
      if (error instanceof Panic) onPanic(error);
      return failure(error);
    }
  }

  function success(action: Action, value: unknown): HttpAnswer {
    if (value === undefined) {
      threadLog.info('The request was executed successfully. Status code: 204 No Content.');
      return { status: 204 };
    }
    threadLog.info('The request was executed successfully. Status code: 200 OK.');
    // MMDS contents are a serde map, which is sorted; structs keep their own order
    return { status: 200, body: action.name === 'GetMmds' ? sortedJson(value) : structJson(value) };
  }

  function failure(error: unknown): HttpAnswer {
    const fault = error instanceof Fault ? error : unexpectedFault(error);
    const reason = fault.status === 413 ? 'Payload too large' : 'Bad Request';
    threadLog.error(
      fault instanceof RequestFault && fault.debug !== undefined
        ? fault.debug
        : `Received Error. Status code: ${fault.status} ${reason}. Message: ${fault.message}`,
    );
    const body = JSON.stringify({ fault_message: fault.message });
    const { fatal } = fault;
    if (fatal === undefined) return { status: fault.status, body };
    return { status: fault.status, body, afterwards: () => onFatal(fatal) };
  }

  function unexpectedFault(error: unknown): Fault {
    const text = error instanceof Error ? error.message : String(error);
    threadLog.error(`fcqemu failed: ${text}`);
    if (error instanceof Error && error.stack !== undefined) threadLog.debug(error.stack);
    return new Fault(`Internal VMM error: ${text}`);
  }

  function logLatency(action: Action, begin: number): void {
    const [metric, name] = latencyOf(action) ?? [];
    if (metric === undefined) return;
    const elapsed = elapsedUs(begin);
    metrics.store('latencies_us', metric, elapsed);
    threadLog.info(`'${name}' API request took ${elapsed} us.`);
  }
}

function latencyOf(action: Action): [metric: string, name: string] | undefined {
  switch (action.name) {
    case 'Pause':
      return ['pause_vm', 'pause vm'];
    case 'Resume':
      return ['resume_vm', 'resume vm'];
    case 'LoadSnapshot':
      return ['load_snapshot', 'load snapshot'];
    case 'CreateSnapshot':
      return action.argument.snapshot_type === 'Full'
        ? ['full_create_snapshot', 'create full snapshot']
        : ['diff_create_snapshot', 'create diff snapshot'];
    default:
      return undefined;
  }
}

function elapsedUs(begin: number): number {
  return Math.round((performance.now() - begin) * 1000);
}

/** `Put request on "/x" with body "…"`; metadata is never logged, CPU templates only at debug level. */
function describe({ method, path, body }: HttpRequest, log: ThreadLog): string {
  const name = `${method.charAt(0)}${method.slice(1).toLowerCase()} request on ${debugText(path)}`;
  if (!body || path === '/mmds') return name;
  if (path === '/cpu-config' && !log.verbose) {
    return `${name}. To view the CPU template received by the API, configure log-level to DEBUG`;
  }
  return `${name} with body ${debugText(isUtf8(body) ? body.toString('utf8') : 'inconvertible to UTF-8')}`;
}

/** Counters of the metrics file by method and first part of the path, where Firecracker has some. */
const COUNTERS: Partial<Record<Method, Record<string, string>>> = {
  GET: {
    '': 'instance_info',
    'machine-config': 'machine_cfg',
    mmds: 'mmds',
    version: 'vmm_version',
    hotplug: 'hotplug_memory',
  },
  PUT: {
    actions: 'actions',
    'boot-source': 'boot_source',
    drives: 'drive',
    logger: 'logger',
    'machine-config': 'machine_cfg',
    'cpu-config': 'cpu_cfg',
    metrics: 'metrics',
    'network-interfaces': 'network',
    mmds: 'mmds',
    vsock: 'vsock',
    pmem: 'pmem',
    serial: 'serial',
    hotplug: 'hotplug_memory',
  },
  PATCH: {
    drives: 'drive',
    'network-interfaces': 'network',
    'machine-config': 'machine_cfg',
    mmds: 'mmds',
    pmem: 'pmem',
    hotplug: 'hotplug_memory',
  },
};

function counterOf({ method, path, body }: HttpRequest): { group: string; name: string } | undefined {
  // those with a body where none is expected, or without one, are not read at all
  if ((body === undefined) !== (method === 'GET')) return undefined;
  const counters = COUNTERS[method] ?? {};
  const section = path.replace(/^\/+/, '').split('/')[0] ?? '';
  const name = Object.hasOwn(counters, section) ? counters[section] : undefined;
  return name === undefined ? undefined : { group: `${method.toLowerCase()}_api_requests`, name };
}
