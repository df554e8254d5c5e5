/** Client for one VMM's API socket: requests one at a time, errors as BangerErrors. */
import { createConnection } from 'node:net';
import { BangerError, messageOf } from '../errors.ts';
import { singleConnectionAgent, type UnixAnswer, unixRequest } from '../system/unix-http.ts';
import type { InstanceInfo } from './api-types.ts';
import { describeInstance, type VmmRequest } from './requests.ts';

/** Firecracker's own tests demand every call within 700 ms; a busy host and an emulated VMM get more. */
const CALL_TIMEOUT_MS = 20_000;

export interface VmmApi extends AsyncDisposable {
  /**
   * @throws BangerError `vmm_failed` with the VMM's own words when it refuses, does not answer or is gone
   */
  send(request: VmmRequest): Promise<unknown>;
  describe(): Promise<InstanceInfo>;
}

export function connectVmm(socketPath: string): VmmApi {
  const agent = singleConnectionAgent();
  const send = async (request: VmmRequest): Promise<unknown> => {
    const answer = await exchange(socketPath, request, agent);
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
    describe: async () => (await send(describeInstance())) as InstanceInfo,
    async [Symbol.asyncDispose]() {
      agent.destroy();
    },
  };
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

async function exchange(socketPath: string, request: VmmRequest, agent: UnixRequestAgent): Promise<UnixAnswer> {
  try {
    return await unixRequest({ socketPath, ...request, agent, timeoutMs: CALL_TIMEOUT_MS });
  } catch (error) {
    throw new BangerError(
      'vmm_failed',
      `The VMM did not answer ${request.method} ${request.path}: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

type UnixRequestAgent = ReturnType<typeof singleConnectionAgent>;

/**
 * API errors are `{"fault_message": …}`; transport errors are `{ "error": "…" }` with a raw newline inside the
 * string, which no JSON parser takes.
 */
export function faultMessage(answer: Pick<UnixAnswer, 'status' | 'text'>): string {
  const match = /"(?:fault_message|error)"\s*:\s*"([\s\S]*)"\s*\}/.exec(answer.text);
  const raw = match?.[1];
  if (raw === undefined) return `status ${answer.status}${answer.text ? `: ${answer.text.trim().slice(0, 500)}` : ''}`;
  return raw.replaceAll('\\"', '"').replaceAll('\\n', ' ').replaceAll('\n', ' ').trim();
}
