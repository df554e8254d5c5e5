/** Answers API requests: logging, counting, and the shape of answers. */
import { Fault } from '../fault.ts';
import type { HttpRequest } from '../http/request-parser.ts';
import type { HttpAnswer } from '../http/server.ts';
import { sortedJson, structJson } from '../json/number-text.ts';
import { debugText } from '../json/scanner.ts';
import type { Log, ThreadLog } from '../log.ts';
import type { Metrics } from '../metrics.ts';
import type { Vmm } from '../vmm/vmm.ts';
import type { Action, ActionName } from './actions.ts';
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
  onFatal: (exitCode: number) => void;
}

/** The handler for `serveApi`; it never rejects. */
export function createApiHandler({
  vmm,
  log,
  metrics,
  ready,
  worked,
  onFatal,
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
    let deprecated = false;
    let action: Action | undefined;
    try {
      const parsed = parseRequest(request);
      action = parsed.action;
      countRequest(metrics, action.name, 'count');
      if (parsed.deprecation) {
        deprecated = true;
        metrics.count('deprecated_api', 'deprecated_http_api_calls');
        threadLog.warn(parsed.deprecation);
      }
      const value = await vmm.execute(action);
      logLatency(action, begin);
      return { ...success(action, value), deprecated };
    } catch (error) {
      if (action) countRequest(metrics, action.name, 'fails');
      return { ...failure(error), deprecated };
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
    threadLog.error(`Received Error. Status code: ${fault.status} ${reason}. Message: ${fault.message}`);
    const body = JSON.stringify({ fault_message: fault.message });
    const { fatalExitCode } = fault;
    if (fatalExitCode === undefined) return { status: fault.status, body };
    return { status: fault.status, body, afterwards: () => onFatal(fatalExitCode) };
  }

  function unexpectedFault(error: unknown): Fault {
    const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
    threadLog.error(`fcqemu failed: ${text}`);
    return new Fault(`Internal VMM error: ${error instanceof Error ? error.message : String(error)}`);
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
  return `${name} with body ${debugText(body.toString('utf8'))}`;
}

/** Firecracker's counters by action; GET requests count successes only. */
const COUNTERS: Partial<Record<ActionName, [group: string, name: string]>> = {
  GetVmInstanceInfo: ['get_api_requests', 'instance_info'],
  GetVmMachineConfig: ['get_api_requests', 'machine_cfg'],
  GetMmds: ['get_api_requests', 'mmds'],
  GetVmmVersion: ['get_api_requests', 'vmm_version'],
  GetMemoryHotplugStatus: ['get_api_requests', 'hotplug_memory'],
  StartMicroVm: ['put_api_requests', 'actions'],
  SendCtrlAltDel: ['put_api_requests', 'actions'],
  FlushMetrics: ['put_api_requests', 'actions'],
  ConfigureBootSource: ['put_api_requests', 'boot_source'],
  InsertBlockDevice: ['put_api_requests', 'drive'],
  ConfigureLogger: ['put_api_requests', 'logger'],
  UpdateMachineConfiguration: ['put_api_requests', 'machine_cfg'],
  PutCpuConfiguration: ['put_api_requests', 'cpu_cfg'],
  ConfigureMetrics: ['put_api_requests', 'metrics'],
  InsertNetworkDevice: ['put_api_requests', 'network'],
  PutMmds: ['put_api_requests', 'mmds'],
  SetMmdsConfiguration: ['put_api_requests', 'mmds'],
  SetVsockDevice: ['put_api_requests', 'vsock'],
  InsertPmemDevice: ['put_api_requests', 'pmem'],
  ConfigureSerial: ['put_api_requests', 'serial'],
  SetMemoryHotplugDevice: ['put_api_requests', 'hotplug_memory'],
  UpdateBlockDevice: ['patch_api_requests', 'drive'],
  UpdateNetworkInterface: ['patch_api_requests', 'network'],
  PatchMmds: ['patch_api_requests', 'mmds'],
  UpdatePmemDevice: ['patch_api_requests', 'pmem'],
  UpdateMemoryHotplugSize: ['patch_api_requests', 'hotplug_memory'],
};

function countRequest(metrics: Metrics, name: ActionName, what: 'count' | 'fails'): void {
  const counter = COUNTERS[name];
  if (counter) metrics.count(counter[0], `${counter[1]}_${what}`);
}
