// tensorflow_model_server 2.20.0 reads a request recursively: one that nests 30,000 brackets, a body of 60 KB, ends the
// process; 20,000 it refuses. Such a request is answered here.
const LIMIT = 10000;
// Bytes that are looked at before other connections get their turn.
const PORTION = 10000;

async function check(request) {
    let body;
    try {
        body = request.requestBuffer;
    } catch (error) {
        // Many tiny chunks fill the buffer (nginx.conf) before the limit on the size does.
        return request.return(413);
    }
    if (body && opening(body) > LIMIT && await tooDeep(body)) {
        request.headersOut['Content-Type'] = 'application/json';
        return request.return(400, `{"error": "JSON Parse error: Values are nested more than ${LIMIT} deep."}`);
    }
    request.internalRedirect('@model_server');
}

// How many brackets open in a body, in strings too, counted to the limit: few requests have enough to look further.
function opening(body) {
    let found = 0;
    [0x5b, 0x7b].forEach(bracket => {
        for (let at = body.indexOf(bracket); at >= 0 && found <= LIMIT; at = body.indexOf(bracket, at + 1)) {
            found++;
        }
    });
    return found;
}

async function tooDeep(body) {
    // Declared once: njs takes memory for every `const` or `let` that a loop comes across.
    let at, byte, depth = 0, quoted = false, pause = PORTION;
    for (at = 0; at < body.length; at++) {
        if (pause-- === 0) {
            pause = PORTION;
            // Not 0: nginx serves timers that have run out before it looks at any connection.
            await new Promise(resolve => setTimeout(resolve, 1));
        }
        byte = body[at];
        if (byte === 0x22) { // "
            quoted = !quoted;
        } else if (quoted) {
            at += byte === 0x5c ? 1 : 0; // \ and what it escapes
        } else if (byte === 0x5b || byte === 0x7b) { // [ {
            if (++depth > LIMIT) {
                return true;
            }
        } else if (byte === 0x5d || byte === 0x7d) { // ] }
            depth--;
        }
    }
    return false;
}

export default { check };
