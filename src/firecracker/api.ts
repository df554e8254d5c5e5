/** Client for one VMM's API socket: requests one at a time, errors as BangerErrors. */
import { createConnection } from 'node:net';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { type HttpAnswer, type HttpConnection, openConnection } from '../system/short-http.ts';
import type { InstanceInfo } from './api-types.ts';
import { describeInstance, type VmmRequest } from './requests.ts';
import { parseVmmVersion, standingOf, UNKNOWN_VERSION, type VmmVersion } from './versions.ts';

/** Firecracker's own tests demand every call within 700 ms; a busy host and an emulated VMM get more. */
const CALL_TIMEOUT_MS = 20_000;

export interface VmmApi extends AsyncDisposable {
  /**
   * @param timeoutMs for what takes long in a VMM, in `ms`
   * @throws BangerError `vmm_failed` with the VMM's own words when it refuses, does not answer or is gone
   */
  send(request: VmmRequest, timeoutMs?: number): Promise<unknown>;
}

export function connectVmm(socketPath: string): VmmApi {
  const connection = openConnection(socketPath);
  const send = async (request: VmmRequest, timeoutMs = CALL_TIMEOUT_MS): Promise<unknown> => {
    const answer = await exchange(connection, request, timeoutMs);
    if (answer.status >= 400) {
      throw new BangerError(
        'vmm_failed',
        `The VMM refused ${request.method} ${request.path}: ${faultMessage(answer)}`,
        {
          details: { status: answer.status, method: request.method, path: request.path },
        },
      );
    }
    return answer.text ? JSON.parse(answer.text) : undefined;
  };
  return {
    send,
    async [Symbol.asyncDispose]() {
      connection[Symbol.dispose]();
    },
  };
}

/** The version of the VMM at hand, whatever its program's file has become since it was started. */
export async function versionOfVmm(api: VmmApi): Promise<VmmVersion> {
  const { vmm_version } = (await api.send(describeInstance())) as InstanceInfo;
  return parseVmmVersion(vmm_version) ?? { ...UNKNOWN_VERSION, text: vmm_version };
}

/** A refusal by a version that nobody has tried says so: that is likely why. */
export function explainRefusal(error: unknown, version: VmmVersion): unknown {
  const untried = ['old', 'new-major'].includes(standingOf(version));
  if (!untried || !(error instanceof BangerError) || error.details?.status === undefined) return error;
  return error.reworded(`${error.message} (This is version ${version.text}, which banger was never tried with.)`, {
    hint: 'Take it out of PATH and get one that is known: banger vmm install',
  });
}

/** EPERM, EINVAL, ENOSYS and EOPNOTSUPP: the answers of file systems that have no sockets (FAT, some of FUSE and of networks). */
const NO_SOCKETS = /\(os error (?:1|22|38|95)\)$/;
const BINDING = 'binding to the host-side Unix socket: ';

/** Whether a VMM refused the device by which the guest's agent is reached because its socket has no place where the VM lies. */
export function lacksSockets(error: unknown): boolean {
  if (!(error instanceof BangerError) || error.details?.path !== '/vsock') return false;
  return error.message.includes(BINDING) && NO_SOCKETS.test(error.message);
}

/**
 * Asks a VMM on a connection of its own who it is, which shows whether it works.
 * @returns `silent` when it has not answered within `limitMs`
 * @throws BangerError `vmm_failed` when there is none, or its answer is none
 */
export async function describeVmm(socketPath: string, limitMs: number): Promise<InstanceInfo | 'silent'> {
  const request = describeInstance();
  using connection = openConnection(socketPath);
  try {
    const { status, text } = await connection.ask({ ...request, timeoutMs: limitMs });
    if (status !== 200) throw new Error(`it says ${status}`);
    return JSON.parse(text) as InstanceInfo;
  } catch (error) {
    if (systemCode(error) === 'ETIMEDOUT') return 'silent';
    throw noAnswer(request, error);
  }
}

/**
 * Calls `onEnd` once when the VMM's socket closes, which is when its process ends, however that happens and
 * whoever started it. Needs no polling: neither Firecracker nor fcqemu ever closes an idle connection.
 * @returns a function that stops watching
 */
export function watchVmm(socketPath: string, onEnd: () => void): () => void {
  const connection = createConnection(socketPath);
  let watching = true;
  const end = () => {
    if (watching) onEnd();
    watching = false;
  };
  connection.on('error', () => {}); // 'close' follows
  connection.once('close', end);
  connection.resume();
  connection.unref();
  return () => {
    watching = false;
    connection.destroy();
  };
}

async function exchange(connection: HttpConnection, request: VmmRequest, timeoutMs: number): Promise<HttpAnswer> {
  try {
    return await connection.ask({ ...request, timeoutMs });
  } catch (error) {
    throw noAnswer(request, error);
  }
}

function noAnswer({ method, path }: VmmRequest, cause: unknown): BangerError {
  return new BangerError('vmm_failed', `The VMM did not answer ${method} ${path}: ${messageOf(cause)}`, { cause });
}

/**
 * API errors are `{"fault_message": …}`; transport errors are `{ "error": "…" }` with a raw newline inside the
 * string, which no JSON parser takes.
 */
export function faultMessage(answer: Pick<HttpAnswer, 'status' | 'text'>): string {
  const before = /"(?:fault_message|error)"\s{0,8}:\s{0,8}"/.exec(answer.text);
  const end = answer.text.lastIndexOf('"');
  const raw = before && answer.text.slice(before.index + before[0].length, Math.max(end, 0));
  if (!raw) return `status ${answer.status}${answer.text ? `: ${answer.text.trim().slice(0, 500)}` : ''}`;
  return raw.replaceAll('\\"', '"').replaceAll('\\n', ' ').replaceAll('\n', ' ').trim();
}
