/** The socket that systemd opened for this process and hands over at its start (sd_listen_fds(3)). */
import { once } from 'node:events';
import type { Server } from 'node:net';
import { BangerError } from '../errors.ts';

/** SD_LISTEN_FDS_START of sd-daemon.h. */
const FIRST_DESCRIPTOR = 3;

/**
 * Takes the descriptor of the socket out of the environment, so that no program this process starts takes it for its own.
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
  throw new BangerError('invalid_input', `This process was handed ${LISTEN_FDS} sockets; it listens on one.`, {
    hint: 'See what the unit lists: systemctl cat bangerd.socket bangernet.socket',
  });
}

/** Accepts connections on a socket that is listening already. */
export async function listenOn(server: Server, descriptor: number): Promise<void> {
  server.listen({ fd: descriptor });
  await once(server, 'listening');
}
