/** The socket that systemd opened for this process and hands over at its start (sd_listen_fds(3)). */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { toProblem } from '../api/problem.ts';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';

/** SD_LISTEN_FDS_START of sd-daemon.h. */
const FIRST_DESCRIPTOR = 3;

/** How long clients that wait for a daemon that cannot start are told why. */
const REFUSAL_MS = 1000;

/**
 * Takes the descriptor of the socket out of the environment, so that no program the daemon starts takes it for its own.
 * @returns undefined when nobody handed one over
 * @throws BangerError `invalid_input` when there are several
 */
export function takeActivationSocket(env: NodeJS.ProcessEnv, pid: number): number | undefined {
  const { LISTEN_PID, LISTEN_FDS } = env;
  for (const name of ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES']) delete env[name];
  // they stay in the environment of whatever a service starts; the number says whom they were meant for
  if (LISTEN_FDS === undefined || LISTEN_PID !== String(pid)) return undefined;
  if (LISTEN_FDS === '0') return undefined;
  if (LISTEN_FDS === '1') return FIRST_DESCRIPTOR;
  throw new BangerError('invalid_input', `The daemon was handed ${LISTEN_FDS} sockets; it listens on one.`, {
    hint: 'See what the unit lists: systemctl cat bangerd.socket',
  });
}

/** Accepts connections on a socket that is listening already. */
export async function listenOn(server: Server, descriptor: number): Promise<void> {
  server.listen({ fd: descriptor });
  await once(server, 'listening');
}

/**
 * Answers whoever waits for this daemon with the reason why it does not start. Without this systemd would start it again and
 * again for the same client, who would learn nothing.
 */
export async function refuseClients(descriptor: number, error: BangerError): Promise<void> {
  const problem = toProblem(
    new BangerError('daemon_unreachable', `The daemon cannot start: ${error.message}`, {
      cause: error,
      hint: error.hint ?? 'banger daemon run',
    }),
  );
  const server = createServer((_request, response) => {
    response.writeHead(problem.status, { 'Content-Type': 'application/problem+json', Connection: 'close' });
    response.end(JSON.stringify(problem));
  });
  await listenOn(server, descriptor);
  await sleep(REFUSAL_MS);
  server.close();
  server.closeAllConnections();
}
