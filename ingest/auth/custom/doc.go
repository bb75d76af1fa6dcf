// Package custom lets clients in that a function of the owner's vouches for:
// AWS's custom authorizers.
//
// A client names an authorizer, or its domain or account has a default one, and
// brings what that wants: a token, a user name and password, headers, a query.
// Where the authorizer asks for signed tokens, the signature is checked before the
// function is called. The function says whether the client is let in, as whom,
// with which policies and for how long; it is asked again while the connection
// lasts. Whatever goes wrong on the way, the answer is no: a function that fails,
// is late, says too much or not exactly what it must lets nobody in, and ends the
// connection it was asked about again.
//
// Source: AWS IoT Core developer guide, "Custom authentication".
package custom
